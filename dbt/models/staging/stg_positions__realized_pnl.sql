with source as (
    select
        close_date,
        version,
        user_id,
        asset,
        bought,
        bought_value,
        sold,
        sold_value,
        fees,
        fees_value,
        deposited,
        deposited_value,
        withdrawn,
        withdrawn_value,
        rewarded,
        rewarded_value,
        adjusted,
        adjusted_value,
        proceeds,
        disposed_cost,
        realized,
        trading_pnl,
        quantity,
        cost
    from {{ source('positions', 'realized_pnl') }}
)

select * from source
