{#
    Per user, the value at the closing marks is explained by flows, gains and fees, exactly. What purchases cost beyond
    what sales brought are the fees that the policy puts into the price: the rest of the fees are an expense.
#}
{% test value_identity(model) %}

with terms as (
    select
        close_date,
        user_id,
        sum(opening_value) as opening_value,
        sum(deposited_value - withdrawn_value + rewarded_value + adjusted_value) as flows,
        sum(realized + closing_unrealized - opening_unrealized) as gains,
        sum(fees_value) - sum(bought_value - sold_value) as fees_expensed,
        sum(closing_value) as closing_value
    from {{ model }}
    group by close_date, user_id
)

select *
from terms
where opening_value + flows + gains - fees_expensed <> closing_value

{% endtest %}
