-- While the table is small any index with the mapping in it is as good as the primary key to the planner,
-- and the plan stays when the table has grown: none but the primary key has the mapping in it now.
drop index respgres.expiry_by_time;
create index expiry_by_time on respgres.expiry (expires_at);
