{{ config(indexes=[{'columns': ['close_date', 'asset', 'liability_class'], 'unique': true}]) }}

with control_totals as (
    select * from {{ ref('stg_ledger__control_totals') }}
    {{ where_close_date() }}
),

sealed_days as (
    select * from {{ ref('int_sealed_days') }}
),

trial_balance as (
    select
        control_totals.close_date,
        sealed_days.version,
        control_totals.asset,
        control_totals.liability_class,
        control_totals.opening,
        control_totals.debits,
        control_totals.credits,
        control_totals.closing,
        control_totals.accounts,
        sealed_days.books_sha256
    from control_totals
    inner join sealed_days
        on
            control_totals.close_date = sealed_days.close_date
            and control_totals.version = sealed_days.version
)

select * from trial_balance
