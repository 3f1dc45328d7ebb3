with source as (
    select
        close_date,
        version,
        asset,
        opening,
        income_value,
        funded,
        allowed,
        paid,
        closing,
        stakers
    from {{ source('ledger', 'rewards_pots') }}
)

select * from source
