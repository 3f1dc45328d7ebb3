with source as (
    select
        close_date,
        version,
        books_sha256,
        gate,
        scope,
        verdict
    from {{ source('recon', 'verdicts') }}
)

select * from source
