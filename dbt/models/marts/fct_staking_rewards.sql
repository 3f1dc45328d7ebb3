{{ config(indexes=[{'columns': ['close_date', 'user_id', 'asset'], 'unique': true}]) }}

with positions as (
    select * from {{ ref('stg_positions__staking_positions') }}
    {{ where_close_date() }}
),

rewards as (
    select * from {{ ref('stg_ledger__reward_accruals') }}
    {{ where_close_date() }}
),

assets as (
    select * from {{ ref('stg_exchange__assets') }}
),

sealed_days as (
    select * from {{ ref('int_sealed_days') }}
),

users as (
    select * from {{ ref('stg_accounts__users') }}
),

staking_rewards as (
    select
        positions.close_date,
        sealed_days.version,
        positions.user_id,
        users.account,
        positions.asset,
        positions.opening as opening_stake,
        positions.closing as closing_stake,
        cast(
            round(positions.stake_unit_us / (power(cast(10 as numeric), assets.decimals) * 86400000000), 18)
            as numeric(38, 18)
        ) as stake_days,
        cast(coalesce(rewards.amount, 0) as numeric(38, 18)) as reward,
        sealed_days.books_sha256
    from positions
    inner join sealed_days
        on
            positions.close_date = sealed_days.close_date
            and positions.version = sealed_days.version
    inner join users on positions.user_id = users.user_id
    inner join assets on positions.asset = assets.asset
    left join rewards
        on
            positions.close_date = rewards.close_date
            and positions.version = rewards.version
            and positions.user_id = rewards.user_id
            and positions.asset = rewards.asset
)

select * from staking_rewards
