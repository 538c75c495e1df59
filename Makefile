# What there is to do with a checkout. See README.md.

.PHONY: help run test fuzz bench bench-mapped bench-behind bench-moving bench-rollback soak check-model check-coherence check-outage check-outbox check-scan demo-migration chaos check-compose check-service check-monitoring check-page screenshots check-admin conformance conformance-mapped client-suites

help:
	@echo 'make run              respgres over a Redis and a Postgres of its own, to try it out'
	@echo 'make test             format, lints, all tests'
	@echo 'make fuzz             10 million odd requests for the protocol scanner'
	@echo 'make bench            pass-through beside direct Redis and other proxies; writes docs/performance.md'
	@echo 'make bench-mapped     mapped keys beside SQL statements and Redis; writes docs/performance-mapped.md'
	@echo 'make bench-behind     what is written behind, and the flusher; writes docs/performance-behind.md'
	@echo 'make bench-moving     backfill and verify of 1 million keys, one that is killed, and what clients feel; writes docs/performance-moving.md'
	@echo 'make bench-rollback   back to Redis alone with 1 million keys, and how long clients wait for it'
	@echo 'make demo-migration   an app moves from a pure Redis to typed tables and back while it works; a few minutes'
	@echo 'make soak             30 minutes of clients that come, go and die; looks for leaks'
	@echo 'make check-model      the cache protocol as a model: every order of its steps, with faults'
	@echo 'make check-coherence  two proxies, 200 clients, 60 s, twice; looks for stale reads'
	@echo 'make chaos            30 minutes of processes killed, links cut, memory and disk full; looks for broken promises'
	@echo 'make check-outage     a minute without Postgres, then one without Redis, under load'
	@echo 'make check-outbox     how soon clients see 1,000 changes that others made by SQL'
	@echo 'make check-scan       SCAN while 8 clients write, 60 s for each residence; looks for keys left out'
	@echo 'make .env             secrets for docker-compose.yml'
	@echo 'make check-compose    docker-compose.yml, and with hadolint the Dockerfile'
	@echo 'make check-service    the unit for systemd'
	@echo 'make check-monitoring  each alert fires and does not fire where it should; all queries, of a respgres at work'
	@echo 'make check-page       the web page of the admin port in a headless Chromium'
	@echo 'make screenshots      the same; writes its pictures to docs'
	@echo 'make check-admin      odd requests of all kinds for the admin API (schemathesis)'
	@echo 'make conformance      Redis'"'"' own test suite, beside plain Redis'
	@echo 'make conformance-mapped  its files on hashes and sets, with these in Postgres, under each strategy'
	@echo 'make client-suites    test suites of client libraries, beside plain Redis'

run:
	@exec scripts/run

test:
	@exec scripts/test

fuzz:
	RESPGRES_FUZZ_REQUESTS=$${RESPGRES_FUZZ_REQUESTS:-10000000} \
	    cargo test --release --locked --test fuzz_scanner -- --nocapture

bench:
	@scripts/tools nutcracker haproxy
	cargo bench --locked --bench load -- --write docs/performance.md

bench-mapped:
	@scripts/tools
	cargo bench --locked --bench mapped -- --write docs/performance-mapped.md

bench-behind:
	@scripts/tools
	cargo bench --locked --bench mapped -- --behind --write docs/performance-behind.md

bench-moving:
	@scripts/tools
	cargo bench --locked --bench moving -- --write docs/performance-moving.md

# RESPGRES_DEMO_ORDERS: hashes beside the relay's; RESPGRES_DEMO_PAUSE_MS: how long the app works after each step.
demo-migration:
	@scripts/tools
	RESPGRES_DEMO_ORDERS=$${RESPGRES_DEMO_ORDERS:-5000} \
	RESPGRES_DEMO_PAUSE_MS=$${RESPGRES_DEMO_PAUSE_MS:-5000} \
	RESPGRES_DEMO_ROUNDS=$${RESPGRES_DEMO_ROUNDS:-1} \
	    cargo test --release --locked --test demo -- --nocapture

bench-rollback:
	@scripts/bench-rollback

soak:
	@scripts/tools
	cargo bench --locked --bench soak -- --minutes $${RESPGRES_SOAK_MINUTES:-30}

check-model:
	RESPGRES_MODEL_FAULTS=$${RESPGRES_MODEL_FAULTS:-2} \
	cargo test --locked --release --test model -- --nocapture --test-threads 1

check-coherence:
	@scripts/tools
	RESPGRES_COHERENCE_CLIENTS=$${RESPGRES_COHERENCE_CLIENTS:-200} \
	RESPGRES_COHERENCE_SECONDS=$${RESPGRES_COHERENCE_SECONDS:-60} \
	RESPGRES_COHERENCE_KEYS=$${RESPGRES_COHERENCE_KEYS:-50} \
	    cargo test --release --locked --test coherence -- --nocapture --test-threads 1

# CHAOS_SEED, as printed with a promise that was broken, brings the same faults again.
chaos:
	@scripts/tools
	CHAOS_SECONDS=$${CHAOS_SECONDS:-1800} \
	CHAOS_SEED_SECONDS=$${CHAOS_SEED_SECONDS:-60} \
	CHAOS_SEED=$${CHAOS_SEED:-$$(date +%s)} \
	    cargo test --release --locked --test chaos no_fault -- --nocapture --test-threads 1

check-outage:
	@scripts/tools
	RESPGRES_OUTAGE_SECONDS=$${RESPGRES_OUTAGE_SECONDS:-60} \
	RESPGRES_OUTAGE_CLIENTS=$${RESPGRES_OUTAGE_CLIENTS:-32} \
	    cargo test --release --locked --test outage -- --nocapture

check-outbox:
	@scripts/tools
	RESPGRES_OUTBOX_CHANGES=$${RESPGRES_OUTBOX_CHANGES:-1000} \
	    cargo test --release --locked --test engine within_milliseconds -- --nocapture

check-scan:
	@scripts/tools
	RESPGRES_SCAN_SECONDS=$${RESPGRES_SCAN_SECONDS:-60} \
	    cargo test --release --locked --test keyspace guarantee -- --nocapture --test-threads 1

# Only where there is none.
.env:
	@umask 077 && secrets=$$(scripts/secrets) && printf '%s\n' "$$secrets" >.env
	@echo 'made .env'

check-compose:
	@scripts/check-compose

check-service:
	@scripts/check-service

check-monitoring:
	@scripts/check-monitoring

check-page:
	@scripts/tools chromium
	cargo test --locked --test page -- --test-threads 1

screenshots:
	@scripts/tools chromium
	RESPGRES_SCREENSHOTS=$(CURDIR)/docs cargo test --locked --test page scenes

check-admin:
	@scripts/check-admin

conformance:
	@scripts/conformance

conformance-mapped:
	@scripts/conformance-mapped

client-suites:
	@scripts/client-suites
