with source as (
    select
        close_date,
        version,
        user_id,
        asset,
        amount
    from {{ source('ledger', 'reward_accruals') }}
)

select * from source
