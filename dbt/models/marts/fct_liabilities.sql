{{ config(indexes=[{'columns': ['close_date', 'asset', 'liability_class', 'holder'], 'unique': true}]) }}

with daily_balances as (
    select * from {{ ref('stg_ledger__daily_balances') }}
    {{ where_close_date() }}
),

accounts as (
    select * from {{ ref('stg_ledger__accounts') }}
),

sealed_days as (
    select * from {{ ref('int_sealed_days') }}
),

marks as (
    select * from {{ ref('stg_market__mark_prices') }}
),

assets as (
    select * from {{ ref('stg_exchange__assets') }}
),

-- What is owed, each asset by itself: a receivable never makes a liability smaller.
owed as (
    select
        daily_balances.close_date,
        daily_balances.version,
        accounts.asset,
        accounts.liability_class,
        case when accounts.user_id is null then accounts.account else accounts.liability_class || 's' end as holder,
        sum(daily_balances.balance) as balance,
        count(*) as accounts_held
    from daily_balances
    inner join accounts on daily_balances.account_id = accounts.account_id
    where accounts.liability_class in ('customer', 'affiliate', 'other_liability')
    group by 1, 2, 3, 4, 5
),

liabilities as (
    select
        owed.close_date,
        sealed_days.version,
        owed.asset,
        owed.liability_class,
        owed.holder,
        cast(owed.balance as numeric(38, 18)) as balance,
        marks.price as mark,
        cast(round(owed.balance * marks.price, currencies.decimals) as numeric(38, 18)) as value_at_mark,
        sealed_days.reporting_currency,
        owed.accounts_held,
        sealed_days.books_sha256
    from owed
    inner join sealed_days
        on
            owed.close_date = sealed_days.close_date
            and owed.version = sealed_days.version
    inner join assets as currencies on sealed_days.reporting_currency = currencies.asset
    left join marks
        on
            owed.close_date = marks.close_date
            and owed.version = marks.version
            and owed.asset = marks.asset
)

select * from liabilities
