with source as (
    select
        close_date,
        version,
        user_id,
        asset,
        opening,
        closing,
        stake_unit_us
    from {{ source('positions', 'staking_positions') }}
)

select * from source
