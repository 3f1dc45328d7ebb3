{#
    Summed by keys, columns of a mart equal columns of the books of the sealed version of the day, to the last unit.
    A key that only one side has counts as zero on the other. Needs rows of one close date: `where` gives the mart's.

    books: the staging model of a table of the books, with close_date and version.
    keys: columns that both have.
    amounts: column of the mart -> column of the books.
    books_where: leaves out rows of the books.
#}
{% test equals_books(model, books, keys, amounts, books_where='true') %}

with mart as (
    select
        {{ keys | join(', ') }}
        {%- for ours in amounts %},
        sum({{ ours }}) as mart_{{ ours }}
        {%- endfor %}
    from {{ model }}
    group by {{ keys | join(', ') }}
),

books as (
    select
        {%- for key in keys %}
        b.{{ key }},
        {%- endfor %}
        {%- for ours, theirs in amounts.items() %}
        sum(b.{{ theirs }}) as books_{{ ours }}{{ ',' if not loop.last }}
        {%- endfor %}
    from {{ books }} as b
    inner join {{ ref('int_sealed_days') }} as s on b.close_date = s.close_date and b.version = s.version
    where b.close_date = {{ close_date() }} and {{ books_where }}
    group by {% for key in keys %}b.{{ key }}{{ ', ' if not loop.last }}{% endfor %}
)

select *
from mart
full join books using ({{ keys | join(', ') }})
where
    {%- for ours in amounts %}
    {{ 'or ' if not loop.first }}coalesce(mart_{{ ours }}, 0) <> coalesce(books_{{ ours }}, 0)
    {%- endfor %}

{% endtest %}
