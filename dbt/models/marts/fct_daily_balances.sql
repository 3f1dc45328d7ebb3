{{ config(indexes=[{'columns': ['close_date', 'account', 'asset'], 'unique': true}]) }}

with snapshots as (
    select * from {{ ref('stg_close__user_balance_snapshots') }}
    {{ where_close_date() }}
),

sealed_days as (
    select * from {{ ref('int_sealed_days') }}
),

users as (
    select * from {{ ref('stg_accounts__users') }}
),

daily_balances as (
    select
        snapshots.close_date,
        sealed_days.version,
        users.user_id,
        snapshots.account,
        snapshots.asset,
        snapshots.available,
        snapshots.locked,
        snapshots.staked,
        snapshots.in_transit,
        snapshots.total,
        snapshots.mark,
        snapshots.value,
        sealed_days.reporting_currency,
        sealed_days.books_sha256
    from snapshots
    inner join sealed_days
        on
            snapshots.close_date = sealed_days.close_date
            and snapshots.version = sealed_days.version
    inner join users on snapshots.account = users.account
)

select * from daily_balances
