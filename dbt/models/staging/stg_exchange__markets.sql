with source as (
    select
        market,
        base,
        quote
    from {{ source('exchange', 'markets') }}
)

select * from source
