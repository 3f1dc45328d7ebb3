{# Every model lives in schema finance, whatever the target says: marts are exactly finance.fct_... #}
{% macro generate_schema_name(custom_schema_name, node) -%}
    finance
{%- endmacro %}
