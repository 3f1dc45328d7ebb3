with source as (
    select
        close_date,
        version,
        account,
        asset,
        available,
        locked,
        staked,
        in_transit,
        total,
        mark,
        value
    from {{ source('close', 'user_balance_snapshots') }}
)

select * from source
