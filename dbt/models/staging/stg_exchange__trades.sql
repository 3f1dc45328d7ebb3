with source as (
    select
        trade_id,
        close_date,
        market,
        quote_quantity,
        maker_id,
        taker_id,
        maker_fee,
        taker_fee
    from {{ source('exchange', 'trades') }}
)

select * from source
