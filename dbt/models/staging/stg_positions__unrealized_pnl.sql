with source as (
    select
        close_date,
        version,
        user_id,
        asset,
        quantity,
        cost,
        mark,
        value,
        unrealized
    from {{ source('positions', 'unrealized_pnl') }}
)

select * from source
