{{ config(indexes=[{'columns': ['close_date', 'user_id', 'market', 'role'], 'unique': true}]) }}

with trade_fees as (
    select * from {{ ref('int_trade_fees') }}
    {{ where_close_date() }}
),

sealed_days as (
    select * from {{ ref('int_sealed_days') }}
),

users as (
    select * from {{ ref('stg_accounts__users') }}
),

summed as (
    select
        close_date,
        user_id,
        market,
        asset,
        role,
        sum(fee) as fee,
        sum(quote_quantity) as quote_quantity,
        count(*) as trades
    from trade_fees
    group by close_date, user_id, market, asset, role
),

daily_fees as (
    select
        summed.close_date,
        sealed_days.version,
        summed.user_id,
        users.account,
        summed.market,
        summed.asset,
        summed.role,
        cast(summed.fee as numeric(38, 18)) as fee,
        cast(summed.quote_quantity as numeric(38, 18)) as quote_quantity,
        summed.trades,
        sealed_days.books_sha256
    from summed
    inner join sealed_days on summed.close_date = sealed_days.close_date
    inner join users on summed.user_id = users.user_id
)

select * from daily_fees
