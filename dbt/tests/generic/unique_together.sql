{# The columns together name one row: the grain of the model. #}
{% test unique_together(model, columns) %}

select
    {{ columns | join(', ') }},
    count(*) as how_many
from {{ model }}
group by {{ columns | join(', ') }}
having count(*) > 1

{% endtest %}
