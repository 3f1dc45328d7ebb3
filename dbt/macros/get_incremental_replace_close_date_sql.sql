{#
    The rows of one close date give way to those of this run, also where this run has none: dbt's own delete+insert
    deletes only the keys that come again, and would leave the rows of a version that a re-close emptied.
#}
{% macro get_incremental_replace_close_date_sql(arg_dict) -%}
    {%- set columns = get_quoted_csv(arg_dict['dest_columns'] | map(attribute='name')) -%}
    delete from {{ arg_dict['target_relation'] }} where close_date = {{ close_date() }};
    insert into {{ arg_dict['target_relation'] }} ({{ columns }})
    select {{ columns }} from {{ arg_dict['temp_relation'] }}
{%- endmacro %}
