// The page: asks respgres every two seconds how it is, and shows it; has things done when its user wants it.
//
// - The token is in this tab's session storage and in no address.
// - All that is shown is text: nothing that was told becomes markup.
// - Only lists are asked for, in which no key of a user is named.

import { Figures } from "./figures.js";

const PAUSE_MS = 2000;
const ANSWER_MS = 10_000;
const STRATEGIES = ["dual_write", "cache_first", "database_first", "postgres_only", "redis_only"];
const KINDS = {
  sync_redis_to_postgres: "Redis to Postgres",
  sync_postgres_to_redis: "Postgres to Redis",
  consistency_check: "Comparing",
  consistency_fix: "Comparing and repairing",
};

const $ = (id) => document.getElementById(id);
const part = (id, of) => $(id).querySelector(`[data-of="${of}"]`);

let figures = new Figures();
let token = sessionStorage.getItem("token");
let timer = null;
// Counts who has begun to look: what an earlier one brings is not shown.
let turn = 0;

// === asking ===

class Refused extends Error {
  constructor(status, told) {
    super([told.error, told.advice].filter(Boolean).join("; "));
    this.status = status;
  }
}

async function ask(path, { method = "GET", body, signal } = {}) {
  const headers = { Authorization: `Bearer ${token}` };
  if (body) headers["Content-Type"] = "application/json";
  const answer = await fetch(`/admin/database/${path}`, {
    method, headers, signal, body: body && JSON.stringify(body), cache: "no-store", credentials: "omit",
  });
  const told = await answer.json();
  if (!answer.ok) throw new Refused(answer.status, told);
  return told;
}

async function look() {
  clearTimeout(timer);
  if (!token || document.hidden) return;
  const own = ++turn;
  try {
    const signal = AbortSignal.timeout(ANSWER_MS);
    const [status, metrics] = await Promise.all([ask("status", { signal }), ask("metrics", { signal })]);
    if (own !== turn) return;
    figures.add(performance.now(), metrics);
    enter();
    show(status);
    gone(false);
  } catch (error) {
    if (own !== turn) return;
    if (error instanceof Refused && error.status === 401) return leave(error.message);
    gone(true, error instanceof Refused ? error.message : "respgres does not answer");
  }
  timer = setTimeout(look, PAUSE_MS);
}

// === who is there ===

function enter() {
  sessionStorage.setItem("token", token);
  $("enter").hidden = true;
  $("inside").hidden = $("forget").hidden = false;
}

function leave(why = "") {
  clearTimeout(timer);
  turn++;
  token = null;
  figures = new Figures();
  sessionStorage.removeItem("token");
  $("inside").hidden = $("forget").hidden = $("standing").hidden = true;
  $("enter").hidden = false;
  $("about").textContent = "";
  $("token").value = "";
  $("token").focus();
  say(why, why ? "bad" : "");
}

function gone(is, why = "") {
  $("inside").classList.toggle("old", is);
  if (is) {
    badge("no answer", "bad");
    say(`${why}; what is shown is old`, "bad");
    $("message").dataset.gone = "yes";
  } else if ($("message").dataset.gone) {
    delete $("message").dataset.gone;
    say("");
  }
}

// === showing ===

function say(text, look = "") {
  if ($("message").textContent !== text) $("message").textContent = text;
  $("message").className = look;
}

function badge(text, look) {
  put($("standing"), text, `badge ${look}`);
  $("standing").hidden = false;
}

function put(element, text, look = "") {
  if (element.textContent !== text) element.textContent = text;
  if (element.className !== look) element.className = look;
}

function show(status) {
  const { health, journal, fleet, mappings } = status;
  badge(health.status, { ok: "good", degraded: "warn" }[health.status] ?? "bad");
  $("about").textContent = `${status.version}, up for ${duration(status.uptime_seconds)}`;

  put(part("redis", "state"), ...(health.redis.answers ? ["answers", "good"] : ["does not answer", "bad"]));
  const believed = health.redis.believed;
  put(part("redis", "believed"), yesNo(believed), believed === false ? "bad" : "");
  const postgres = health.postgres;
  const states = { up: ["is there", "good"], catching_up: ["is catching up", "warn"], lost: ["is lost", "bad"] };
  put(part("postgres", "state"), ...(states[postgres?.state] ?? ["is not needed", ""]));
  put(part("postgres", "since"), postgres && postgres.state !== "up" ? duration(postgres.for_seconds) : "–");
  put(part("journal", "lag"), duration(journal.lag_ms / 1000), journal.lag_ms > 5000 ? "warn" : "");
  put(part("journal", "changes"), whole(journal.changes));
  put(part("journal", "letters"), whole(journal.dead_letters), journal.dead_letters ? "warn" : "");
  put(part("outbox", "rows"), whole(figures.now("respgres_outbox_rows")));
  put(part("outbox", "lag"), duration(figures.now("respgres_outbox_lag_seconds")));
  put(part("fleet", "proxies"), whole(fleet?.proxies));
  for (const store of ["redis", "postgres"]) {
    const missing = fleet?.[`missing_in_${store}`];
    put(part("fleet", store), whole(missing), missing ? "bad" : "");
  }

  put(part("requests", "rate"), rate(figures.rate("respgres_commands_total")));
  const errors = figures.rate("respgres_errors_total");
  put(part("requests", "errors"), rate(errors), errors ? "warn" : "");
  put(part("requests", "clients"), whole(status.clients));
  put(part("cache", "ratio"), percent(figures.hitRatio()));
  put(part("cache", "hits"), rate(figures.rate("respgres_cache_total", { result: "hit" })));
  put(part("cache", "most"), latency(figures.quantile("respgres_mapped_loop_seconds", { kind: "read" }, 0.95)));
  put(part("cache", "misses"), rate(figures.rate("respgres_cache_total", { result: "miss" })));
  const [same, different] = ["same", "different"].map((result) => figures.now("respgres_hit_checks_total", { result }));
  put(part("cache", "different"), same || different ? whole(different) : "–", different ? "bad" : "");
  for (const [id, kind] of [["reads", "read"], ["writes", "write"]]) {
    for (const [of, share] of [["half", 0.5], ["most", 0.95], ["nearly", 0.99]]) {
      put(part(id, of), latency(figures.quantile("respgres_mapped_seconds", { kind }, share)));
    }
  }

  showMappings(mappings);
  showJobs(status.jobs);
  showTroubles(status.troubles);
}

function showMappings(mappings) {
  $("mappings").hidden = mappings.length === 0;
  $("no-mappings").hidden = mappings.length > 0;
  const body = $("mappings").tBodies[0];
  keep(body, mappings, (mapping) => mapping.name, newMapping, (row, mapping) => {
    const cell = (of) => row.querySelector(`[data-of="${of}"]`);
    const labels = { mapping: mapping.name };
    const select = row.querySelector("select");
    const isChosen = select.dataset.now !== undefined && select.value !== select.dataset.now;
    select.dataset.now = mapping.strategy;
    if (!isChosen) select.value = mapping.strategy;
    offer(select);
    put(cell("phase"), mapping.phase ?? "–");
    const flags = [
      mapping.set_aside && "its table does not fit",
      mapping.degraded && "degraded",
      mapping.passes_through && "in Redis alone",
    ].filter(Boolean);
    put(cell("state"), flags.join(", ") || "as usual", mapping.set_aside ? "bad" : mapping.degraded ? "warn" : "");
    put(cell("ratio"), percent(figures.hitRatio(labels)), "number");
    for (const kind of ["read", "write"]) {
      put(cell(`${kind}s`), rate(figures.rate("respgres_mapped_operations_total", { ...labels, kind })), "number");
      put(cell(`${kind}-95`), latency(figures.quantile("respgres_mapped_seconds", { ...labels, kind }, 0.95)), "number");
    }
  });
  const choice = $("mapping");
  const names = ["", ...mappings.map((mapping) => mapping.name)];
  if (choice.options.length !== names.length) {
    choice.replaceChildren(...names.map((name) => new Option(name || "all", name)));
  }
}

function newMapping(mapping) {
  const row = element("tr");
  const name = element("th", mapping.name);
  name.scope = "row";
  name.title = `${mapping.key}, ${mapping.kind}, table ${mapping.table}`;
  const select = element("select");
  select.setAttribute("aria-label", `Strategy of ${mapping.name}`);
  select.append(...STRATEGIES.map((strategy) => new Option(strategy, strategy)));
  select.addEventListener("change", () => offer(select));
  const change = element("button", "Change");
  change.type = "button";
  change.setAttribute("aria-label", `Change the strategy of ${mapping.name}`);
  change.addEventListener("click", () => changeStrategy(mapping.name, select));
  const choice = element("div");
  choice.append(select, change);
  const strategy = labelled("Strategy", element("td"));
  strategy.append(choice);
  const cells = [["Phase", "phase"], ["State", "state"], ["Hit ratio", "ratio"], ["Reads/s", "reads"],
    ["Writes/s", "writes"], ["Misses, 95 %", "read-95"], ["Writes, 95 %", "write-95"]];
  row.append(name, strategy, ...cells.map(([label, of]) => labelled(label, element("td", "", of))));
  return row;
}

function showJobs(jobs) {
  const shown = jobs.slice(0, 6);
  keep($("jobs"), shown.length ? shown : [{ id: 0 }], (job) => String(job.id), newJob, (item, job) => {
    if (job.id === 0) return;
    const runs = job.state === "running" || job.state === "cancelling";
    const cell = (of) => item.querySelector(`[data-of="${of}"]`);
    const about = [`${KINDS[job.kind]}, ${job.mapping ?? "all mappings"}`, job.repair && `repairing ${job.repair}`];
    put(cell("what"), `${job.id}. ${about.filter(Boolean).join(", ")}: ${job.state}`, job.state === "failed" ? "bad" : "");
    const left = job.seconds_left === null ? "" : `, ${duration(job.seconds_left)} left`;
    const words = { sync_redis_to_postgres: ["brought over", "refused"], sync_postgres_to_redis: ["filled", "found"] };
    const [written, found] = words[job.kind] ?? ["repaired", "different"];
    put(cell("how"), job.error ?? [
      `${whole(job.done)} keys seen`, `${whole(job.written)} ${written}`, `${whole(job.findings)} ${found}`,
      `${rate(job.keys_per_second)} keys/s in ${duration(job.seconds)}${left}`,
    ].join(", "), job.error || job.findings > job.written ? "warn" : "quiet");
    const progress = item.querySelector("progress");
    progress.hidden = !runs;
    if (job.expected > 0) {
      progress.max = Math.max(job.expected, job.walked);
      progress.value = job.walked;
    }
    const cancel = item.querySelector("button");
    cancel.hidden = !runs;
    cancel.disabled = job.state === "cancelling";
  });
}

function newJob(job) {
  const item = element("li");
  if (job.id === 0) {
    item.append(element("span", "None since respgres was started.", "none"));
    item.firstChild.className = "quiet";
    return item;
  }
  const row = element("div");
  row.className = "row";
  const cancel = element("button", "Cancel");
  cancel.type = "button";
  cancel.setAttribute("aria-label", `Cancel job ${job.id}`);
  cancel.addEventListener("click", () => act(`jobs/${job.id}/cancel`, undefined, () => `Job ${job.id} is being ended`));
  const progress = element("progress");
  progress.setAttribute("aria-label", `How far job ${job.id} is`);
  row.append(element("span", "", "what"), cancel);
  item.append(row, progress, element("span", "", "how"));
  return item;
}

function showTroubles(troubles) {
  const none = [{ at: 0, text: "None since respgres was started.", level: "none", mapping: null, count: 1 }];
  const shown = troubles.length ? troubles.slice(0, 10) : none;
  const key = (trouble) => `${trouble.level} ${trouble.mapping} ${trouble.text}`;
  keep($("troubles"), shown, key, () => element("li"), (item, trouble) => {
    const when = trouble.at ? `${new Date(trouble.at * 1000).toLocaleString()}: ` : "";
    const mapping = trouble.mapping ? ` (${trouble.mapping})` : "";
    const times = trouble.count > 1 ? `, ${whole(trouble.count)} times` : "";
    const looks = { error: "bad", warning: "warn", none: "quiet" };
    put(item, `${when}${trouble.text}${mapping}${times}`, looks[trouble.level]);
  });
}

// Has an element show one of each, in their order; those that stay are the same elements, so that nobody loses his place.
function keep(parent, all, key, make, update) {
  const before = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  const now = all.map((one) => {
    const child = before.get(key(one)) ?? make(one);
    child.dataset.key = key(one);
    update(child, one);
    return child;
  });
  const same = now.length === parent.children.length && now.every((child, at) => child === parent.children[at]);
  if (!same) parent.replaceChildren(...now);
}

function element(name, text = "", of) {
  const made = document.createElement(name);
  made.textContent = text;
  if (of) made.dataset.of = of;
  return made;
}

function labelled(label, cell) {
  cell.dataset.label = label;
  return cell;
}

// === figures for people ===

const whole = (number) => (number === null || number === undefined ? "–" : number.toLocaleString("en"));
const yesNo = (flag) => (flag === undefined ? "–" : flag ? "yes" : "no");
const percent = (share) => (share === null ? "–" : `${(share * 100).toFixed(share > 0.995 && share < 1 ? 2 : 1)} %`);

function rate(number) {
  if (number === null) return "–";
  return number.toLocaleString("en", { maximumFractionDigits: number < 10 ? 1 : 0 });
}

function latency(seconds) {
  if (seconds === null) return "–";
  if (seconds === Infinity) return "over 5 s";
  return seconds < 1 ? `${(seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0)} ms` : `${seconds.toFixed(1)} s`;
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1) return seconds === 0 ? "0 s" : `${Math.round(seconds * 1000)} ms`;
  const units = [["d", 86_400], ["h", 3600], ["min", 60], ["s", 1]];
  const at = units.findIndex(([, size]) => seconds >= size);
  const [name, size] = units[at];
  const [next, smaller] = units[at + 1] ?? [];
  const rest = next ? Math.floor((seconds % size) / smaller) : 0;
  return `${Math.floor(seconds / size)} ${name}${rest ? ` ${rest} ${next}` : ""}`;
}

// === doing ===

async function sure(question) {
  const dialog = $("ask");
  $("question").textContent = question;
  dialog.returnValue = "no";
  dialog.showModal();
  await new Promise((done) => dialog.addEventListener("close", done, { once: true }));
  return dialog.returnValue === "yes";
}

async function act(path, body, told, method = "POST") {
  try {
    const answer = await ask(path, { method, body });
    say(told(answer), "good");
    return true;
  } catch (error) {
    if (error instanceof Refused && error.status === 401) leave(error.message);
    else say(error.message, "bad");
    return false;
  } finally {
    look();
  }
}

// What is chosen is not done yet.
function offer(select) {
  select.nextElementSibling.hidden = select.value === select.dataset.now;
}

async function changeStrategy(name, select) {
  const [before, after] = [select.dataset.now, select.value];
  const question = `Have ${name} go by ${after} instead of ${before}, for all proxies? Its clients wait for some milliseconds.`;
  if (await sure(question)) {
    say(`${name} is being changed …`);
    const path = `strategy/${after.replaceAll("_", "-")}`;
    const done = await act(path, { mapping: name }, (told) => `${name} goes by ${told.strategy}; clients waited ${told.mappings[0].waited_ms} ms`);
    if (done) select.dataset.now = after;
  }
  select.value = select.dataset.now;
  offer(select);
}

function fitFields() {
  const kind = $("kind").value;
  for (const field of document.querySelectorAll("[data-for]")) {
    field.hidden = !kind.startsWith(field.dataset.for);
  }
  $("repair").required = kind === "consistency-fix";
}

async function startJob() {
  const kind = $("kind").value;
  const compares = kind.startsWith("consistency");
  const number = (id) => ($(id).value === "" ? undefined : Number($(id).value));
  const wanted = { mapping: $("mapping").value || undefined, rate: number("rate") };
  if (compares) Object.assign(wanted, { sample: number("sample"), complete: $("complete").checked || undefined });
  if (kind === "consistency-fix") wanted.repair = $("repair").value;
  const of = $("mapping").value || "all mappings";
  const questions = {
    "consistency-fix": `Have ${wanted.repair} get what the other side has, wherever they are different, of ${of}?`,
    "sync/redis-to-postgres": `Bring the keys that only Redis has to Postgres, of ${of}? The phase becomes backfill.`,
  };
  if (questions[kind] && !(await sure(questions[kind]))) return;
  const told = (job) => `Job ${job.id} has begun`;
  if (kind === "consistency-check") {
    const given = Object.entries(wanted).filter(([, value]) => value !== undefined);
    await act(`${kind}?${new URLSearchParams(given)}`, undefined, told, "GET");
  } else {
    await act(kind, wanted, told);
  }
}

async function clearCache() {
  if (!(await sure("Drop the cached copies of all mappings? Reads go to Postgres until they are there again."))) return;
  say("Copies are being dropped …");
  await act("cache/clear", undefined, (told) => `${whole(told.keys)} copies were dropped${told.pending ? ", some are still to be" : ""}`);
}

// === beginning ===

$("enter").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value;
  say("");
  look();
});
$("forget").addEventListener("click", () => leave());
$("start").addEventListener("submit", (event) => {
  event.preventDefault();
  startJob();
});
$("kind").addEventListener("change", fitFields);
$("clear").addEventListener("click", clearCache);
$("reconnect").addEventListener("click", () => {
  act("reconnect", undefined, (told) => `Redis ${told.redis ? "answers" : "does not answer"}`
    + (told.postgres === null ? "" : `, Postgres ${told.postgres ? "is there" : "is lost"}`));
});
document.addEventListener("visibilitychange", look);

fitFields();
if (token) look();
else leave();
