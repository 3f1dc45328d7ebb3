with source as (
    select
        effective_from,
        policy_sha256,
        policy ->> 'reporting_currency' as reporting_currency,
        policy -> 'required_gates' as required_gates
    from {{ source('close', 'policies') }}
)

select * from source
