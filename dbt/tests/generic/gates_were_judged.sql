{# Every gate that the sealed policy requires has a verdict for the books hash that was sealed. #}
{% test gates_were_judged(model) %}

with sealed as (
    select distinct
        close_date,
        version,
        books_sha256
    from {{ model }}
),

required as (
    select distinct
        s.close_date,
        s.version,
        s.books_sha256,
        g.gate
    from sealed as s
    inner join {{ ref('int_sealed_days') }} as d on s.close_date = d.close_date and s.version = d.version
    inner join {{ ref('stg_close__policies') }} as p on d.policy_sha256 = p.policy_sha256
    cross join lateral jsonb_array_elements_text(p.required_gates) as g (gate)
)

select r.*
from required as r
left join {{ ref('stg_recon__verdicts') }} as v
    on
        r.close_date = v.close_date
        and r.version = v.version
        and r.books_sha256 = v.books_sha256
        and r.gate = v.gate
where v.verdict is null

{% endtest %}
