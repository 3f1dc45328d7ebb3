with source as (
    select
        user_id,
        account
    from {{ source('accounts', 'users') }}
)

select * from source
