{{ config(indexes=[{'columns': ['close_date', 'user_id'], 'unique': true}]) }}

with volumes as (
    select * from {{ ref('stg_positions__volume_30d') }}
    {{ where_close_date() }}
),

sealed_days as (
    select * from {{ ref('int_sealed_days') }}
),

users as (
    select * from {{ ref('stg_accounts__users') }}
),

daily_volume_tiers as (
    select
        volumes.close_date,
        sealed_days.version,
        volumes.user_id,
        users.account,
        volumes.day_volume,
        volumes.volume,
        volumes.tier,
        sealed_days.reporting_currency,
        sealed_days.books_sha256
    from volumes
    inner join sealed_days
        on
            volumes.close_date = sealed_days.close_date
            and volumes.version = sealed_days.version
    inner join users on volumes.user_id = users.user_id
)

select * from daily_volume_tiers
