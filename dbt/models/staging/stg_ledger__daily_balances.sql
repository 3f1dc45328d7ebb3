with source as (
    select
        close_date,
        version,
        account_id,
        balance
    from {{ source('ledger', 'daily_balances') }}
)

select * from source
