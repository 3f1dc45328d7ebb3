with source as (
    select
        close_date,
        version,
        kind,
        books_sha256,
        case when kind = 'day' then cast(manifest as jsonb) ->> 'policy_sha256' end as policy_sha256,
        sealed_at
    from {{ source('close', 'seals') }}
)

select * from source
