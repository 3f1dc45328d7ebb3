with source as (
    select
        close_date,
        version,
        user_id,
        day_volume,
        volume,
        tier
    from {{ source('positions', 'volume_30d') }}
)

select * from source
