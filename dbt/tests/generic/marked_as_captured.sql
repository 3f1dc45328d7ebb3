{# Every row is marked at the closing mark that was captured for its asset, date and version. #}
{% test marked_as_captured(model, column_name) %}

select
    m.*,
    p.price
from {{ model }} as m
left join {{ ref('stg_market__mark_prices') }} as p
    on m.close_date = p.close_date and m.version = p.version and m.asset = p.asset
where m.{{ column_name }} is distinct from p.price

{% endtest %}
