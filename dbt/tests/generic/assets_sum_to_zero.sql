{# Over all classes, debits equal credits and the closing balances of an asset sum to zero. #}
{% test assets_sum_to_zero(model) %}

select
    close_date,
    asset,
    sum(closing) as closing,
    sum(credits) - sum(debits) as movement
from {{ model }}
group by close_date, asset
having sum(closing) <> 0 or sum(credits) <> sum(debits)

{% endtest %}
