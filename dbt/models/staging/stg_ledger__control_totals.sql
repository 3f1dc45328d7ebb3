with source as (
    select
        close_date,
        version,
        asset,
        liability_class,
        opening,
        debits,
        credits,
        closing,
        accounts
    from {{ source('ledger', 'control_totals') }}
)

select * from source
