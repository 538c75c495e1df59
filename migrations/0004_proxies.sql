-- The proxies that run on this database. One whose lease has ended here serves mapped keys only if it
-- still has one in Redis.
create table respgres.proxies (
    id          uuid        primary key,
    lease_until timestamptz not null,
    -- What it says of itself.
    standing    jsonb       not null
);
