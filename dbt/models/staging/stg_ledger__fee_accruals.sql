with source as (
    select
        close_date,
        version,
        user_id,
        asset,
        role,
        amount,
        trades
    from {{ source('ledger', 'fee_accruals') }}
)

select * from source
