{{ config(indexes=[{'columns': ['close_date', 'user_id', 'asset'], 'unique': true}]) }}

with sealed_days as (
    select * from {{ ref('int_sealed_days') }}
    {{ where_close_date() }}
),

seals as (
    select * from {{ ref('stg_close__seals') }}
),

realized_pnl as (
    select * from {{ ref('stg_positions__realized_pnl') }}
),

unrealized_pnl as (
    select * from {{ ref('stg_positions__unrealized_pnl') }}
),

marks as (
    select * from {{ ref('stg_market__mark_prices') }}
),

users as (
    select * from {{ ref('stg_accounts__users') }}
),

-- The day before, genesis among them, as it was sealed last.
days_before as (
    select
        sealed_days.close_date,
        seals.close_date as date_before,
        max(seals.version) as version_before
    from sealed_days
    inner join seals on sealed_days.close_date = seals.close_date + 1
    group by sealed_days.close_date, seals.close_date
),

opening as (
    select
        days_before.close_date,
        unrealized_pnl.user_id,
        unrealized_pnl.asset,
        unrealized_pnl.quantity,
        unrealized_pnl.value,
        unrealized_pnl.unrealized
    from unrealized_pnl
    inner join days_before
        on
            unrealized_pnl.close_date = days_before.date_before
            and unrealized_pnl.version = days_before.version_before
),

changed as (
    select realized_pnl.*
    from realized_pnl
    inner join sealed_days
        on
            realized_pnl.close_date = sealed_days.close_date
            and realized_pnl.version = sealed_days.version
),

held as (
    select unrealized_pnl.*
    from unrealized_pnl
    inner join sealed_days
        on
            unrealized_pnl.close_date = sealed_days.close_date
            and unrealized_pnl.version = sealed_days.version
),

positions as (
    select
        close_date,
        user_id,
        asset
    from opening
    union distinct
    select
        close_date,
        user_id,
        asset
    from changed
    union distinct
    select
        close_date,
        user_id,
        asset
    from held
),

daily_pnl as (
    select
        positions.close_date,
        sealed_days.version,
        positions.user_id,
        users.account,
        positions.asset,
        cast(coalesce(opening.quantity, 0) as numeric(38, 18)) as opening_quantity,
        cast(coalesce(opening.value, 0) as numeric(38, 18)) as opening_value,
        cast(coalesce(opening.unrealized, 0) as numeric(38, 18)) as opening_unrealized,
        cast(coalesce(changed.bought, 0) as numeric(38, 18)) as bought,
        cast(coalesce(changed.bought_value, 0) as numeric(38, 18)) as bought_value,
        cast(coalesce(changed.sold, 0) as numeric(38, 18)) as sold,
        cast(coalesce(changed.sold_value, 0) as numeric(38, 18)) as sold_value,
        cast(coalesce(changed.fees, 0) as numeric(38, 18)) as fees,
        cast(coalesce(changed.fees_value, 0) as numeric(38, 18)) as fees_value,
        cast(coalesce(changed.deposited, 0) as numeric(38, 18)) as deposited,
        cast(coalesce(changed.deposited_value, 0) as numeric(38, 18)) as deposited_value,
        cast(coalesce(changed.withdrawn, 0) as numeric(38, 18)) as withdrawn,
        cast(coalesce(changed.withdrawn_value, 0) as numeric(38, 18)) as withdrawn_value,
        cast(coalesce(changed.rewarded, 0) as numeric(38, 18)) as rewarded,
        cast(coalesce(changed.rewarded_value, 0) as numeric(38, 18)) as rewarded_value,
        cast(coalesce(changed.adjusted, 0) as numeric(38, 18)) as adjusted,
        cast(coalesce(changed.adjusted_value, 0) as numeric(38, 18)) as adjusted_value,
        cast(coalesce(changed.proceeds, 0) as numeric(38, 18)) as proceeds,
        cast(coalesce(changed.disposed_cost, 0) as numeric(38, 18)) as disposed_cost,
        cast(coalesce(changed.realized, 0) as numeric(38, 18)) as realized,
        cast(coalesce(changed.trading_pnl, 0) as numeric(38, 18)) as trading_pnl,
        cast(coalesce(held.quantity, 0) as numeric(38, 18)) as closing_quantity,
        cast(coalesce(held.cost, 0) as numeric(38, 18)) as closing_cost,
        held.mark,
        marks.source as mark_source,
        marks.price_at as mark_at,
        cast(coalesce(held.value, 0) as numeric(38, 18)) as closing_value,
        cast(coalesce(held.unrealized, 0) as numeric(38, 18)) as closing_unrealized,
        sealed_days.reporting_currency,
        sealed_days.books_sha256
    from positions
    inner join sealed_days on positions.close_date = sealed_days.close_date
    inner join users on positions.user_id = users.user_id
    left join opening
        on
            positions.close_date = opening.close_date
            and positions.user_id = opening.user_id
            and positions.asset = opening.asset
    left join changed
        on
            positions.close_date = changed.close_date
            and positions.user_id = changed.user_id
            and positions.asset = changed.asset
    left join held
        on
            positions.close_date = held.close_date
            and positions.user_id = held.user_id
            and positions.asset = held.asset
    left join marks
        on
            held.close_date = marks.close_date
            and held.version = marks.version
            and held.asset = marks.asset
)

select * from daily_pnl
