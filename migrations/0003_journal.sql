-- Write-behind.

-- How far the journal in Redis has been brought to the tables: written in the same transaction as these.
create table respgres.applied (
    journal text   primary key,
    epoch   bigint not null,
    number  bigint not null
);

-- Journaled changes that Postgres refused.
create table respgres.dead_letters (
    id         bigint      generated always as identity primary key,
    mapping    text        not null,
    key        bytea       not null,
    -- What had become of the key, as in the journal.
    change     bytea       not null,
    epoch      bigint      not null,
    number     bigint      not null,
    reason     text        not null,
    created_at timestamptz not null default now()
);
