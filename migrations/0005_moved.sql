-- Importing: while a mapping's keys may still be in Redis alone.

-- Keys that had a row and have none: what Redis may have of them is no original.
create table respgres.moved (
    mapping text  not null,
    key     bytea not null,
    primary key (mapping, key)
);

-- Where respgres has run before there were phases, the mappings of its next start are migrated.
insert into respgres.control (name, value)
select 'phases', '{"before": true}' from respgres.control where name = 'redis'
on conflict (name) do nothing;
