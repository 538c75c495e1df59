// What the metrics of some seconds say: rates and quantiles. Nothing is shown here.

// Over so many milliseconds rates are told.
const WINDOW_MS = 30_000;

export class Figures {
  // Of /admin/database/metrics, oldest first: { at, metrics }.
  #looks = [];

  add(at, metrics) {
    const last = this.#looks.at(-1);
    if (last && started(metrics) < started(last.metrics)) {
      // Its counters have begun anew.
      this.#looks = [];
    }
    this.#looks.push({ at, metrics });
    while (this.#looks.length > 2 && at - this.#looks[1].at >= WINDOW_MS) {
      this.#looks.shift();
    }
  }

  // The sum of a gauge, or of a counter since the start; null where nothing is told of it.
  now(name, labels = {}) {
    const look = this.#looks.at(-1);
    const values = look ? samples(look.metrics, name, labels) : [];
    return values.length ? sum(values.map((sample) => sample.value)) : null;
  }

  // By how much a counter has grown in a second; null where nobody knows yet.
  rate(name, labels = {}) {
    return this.#over((first, last, seconds) => {
      const total = (look) => sum(samples(look.metrics, name, labels).map((sample) => sample.value));
      return (total(last) - total(first)) / seconds;
    });
  }

  // The share of hits; over all that there were where the last seconds had none.
  hitRatio(labels = {}) {
    const share = (of) => {
      const [hits, misses] = ["hit", "miss"].map((result) => of("respgres_cache_total", { ...labels, result }));
      return hits + misses > 0 ? hits / (hits + misses) : null;
    };
    return share((name, labels) => this.rate(name, labels)) ?? share((name, labels) => this.now(name, labels));
  }

  // In how many seconds this share of operations was done; null where there were none.
  quantile(name, labels, share) {
    return this.#over((first, last) => {
      const before = buckets(samples(first.metrics, name, labels));
      const after = buckets(samples(last.metrics, name, labels));
      const counts = new Map([...after].map(([most, count]) => [most, count - (before.get(most) ?? 0)]));
      const all = counts.get(Infinity) ?? 0;
      if (all <= 0) return null;
      const wanted = share * all;
      let [below, count] = [0, 0];
      for (const [most, upTo] of [...counts].sort(([one], [other]) => one - other)) {
        if (upTo >= wanted) {
          if (most === Infinity) return Infinity;
          return below + (most - below) * ((wanted - count) / (upTo - count));
        }
        [below, count] = [most, upTo];
      }
      return null;
    });
  }

  #over(work) {
    const [first, last] = [this.#looks[0], this.#looks.at(-1)];
    return this.#looks.length < 2 ? null : work(first, last, (last.at - first.at) / 1000);
  }
}

function samples(metrics, name, labels) {
  const fits = (sample) => Object.entries(labels).every(([label, value]) => sample.labels[label] === value);
  return (metrics[name]?.values ?? []).filter(fits);
}

// Of histograms how many values were not above each bound.
function buckets(histograms) {
  const counts = new Map();
  const add = (most, count) => counts.set(most, (counts.get(most) ?? 0) + count);
  for (const histogram of histograms) {
    histogram.buckets.forEach((bucket) => add(bucket.most, bucket.count));
    add(Infinity, histogram.count);
  }
  return counts;
}

function started(metrics) {
  return metrics.respgres_uptime_seconds?.values[0]?.value ?? 0;
}

function sum(values) {
  return values.reduce((one, other) => one + other, 0);
}
