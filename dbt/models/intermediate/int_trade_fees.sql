with trades as (
    select * from {{ ref('stg_exchange__trades') }}
),

markets as (
    select * from {{ ref('stg_exchange__markets') }}
),

trade_fees as (
    select
        trades.trade_id,
        trades.close_date,
        trades.market,
        markets.quote as asset,
        sides.role,
        sides.user_id,
        sides.fee,
        trades.quote_quantity
    from trades
    inner join markets on trades.market = markets.market
    cross join
        lateral (
            values
            ('maker', trades.maker_id, trades.maker_fee),
            ('taker', trades.taker_id, trades.taker_fee)
        ) as sides (role, user_id, fee)
)

select * from trade_fees
