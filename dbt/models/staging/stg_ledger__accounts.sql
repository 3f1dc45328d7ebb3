with source as (
    select
        account_id,
        account,
        user_id,
        asset,
        liability_class
    from {{ source('ledger', 'accounts') }}
)

select * from source
