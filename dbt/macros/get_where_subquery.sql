{#
    dbt renders `where` while it parses, when the day is not known: __close_date__ stands for it, and is replaced here,
    while the test runs. A daily test without --vars is refused by close_date().
#}
{% macro get_where_subquery(relation) -%}
    {%- set where = config.get('where') -%}
    {%- if not where -%}
        {%- do return(relation) -%}
    {%- endif -%}
    {%- if '__close_date__' in where -%}
        {%- set where = where | replace('__close_date__', close_date()) -%}
    {%- endif -%}
    {%- do return('(select * from ' ~ relation ~ ' where ' ~ where ~ ')') -%}
{%- endmacro %}
