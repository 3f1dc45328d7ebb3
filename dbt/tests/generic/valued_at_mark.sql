{# The value is quantity times mark, rounded once, to the smallest unit of the reporting currency. #}
{% test valued_at_mark(model, column_name, quantity, mark) %}

select m.*
from {{ model }} as m
left join {{ ref('stg_exchange__assets') }} as a on m.reporting_currency = a.asset
where m.{{ column_name }} is distinct from round(m.{{ quantity }} * m.{{ mark }}, a.decimals)

{% endtest %}
