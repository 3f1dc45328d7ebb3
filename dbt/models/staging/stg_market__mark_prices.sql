with source as (
    select
        close_date,
        version,
        asset,
        price,
        source,
        "at" as price_at
    from {{ source('market', 'mark_prices') }}
)

select * from source
