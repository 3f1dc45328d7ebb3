with source as (
    select
        asset,
        decimals
    from {{ source('exchange', 'assets') }}
)

select * from source
