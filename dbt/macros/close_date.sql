{# The close date of this run as a SQL date, from --vars '{close_date: YYYY-MM-DD}'. Anything else is refused. #}
{% macro close_date() -%}
    {%- if execute -%}
        {%- set given = var('close_date', '') | string -%}
        {%- if not modules.re.fullmatch('[0-9]{4}-[0-9]{2}-[0-9]{2}', given) -%}
            {%- do exceptions.raise_compiler_error(
                "close_date is '" ~ given ~ "': pass --vars '{close_date: YYYY-MM-DD}', the date that is built and tested"
            ) -%}
        {%- endif -%}
        cast('{{ given }}' as date)
    {%- else -%}
        cast('0001-01-01' as date)
    {%- endif -%}
{%- endmacro %}


{# In an incremental run, the day of --vars alone; in the first run and a full refresh, every sealed day. #}
{% macro where_close_date(column='close_date') -%}
    {%- if is_incremental() -%}
        where {{ column }} = {{ close_date() }}
    {%- endif -%}
{%- endmacro %}
