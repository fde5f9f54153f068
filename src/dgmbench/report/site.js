"use strict";

// Sorting: a click or Enter on a column's button; empty values stay last in both directions.
function sortValue(cell) {
  if (cell.dataset.value !== undefined) {
    return cell.dataset.value === "" ? null : Number(cell.dataset.value);
  }
  return cell.textContent.trim();
}

function sortTable(header) {
  const table = header.closest("table");
  const body = table.tBodies[0];
  const index = header.cellIndex;
  const direction = header.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  const sign = direction === "ascending" ? 1 : -1;
  for (const other of table.tHead.rows[0].cells) {
    other.setAttribute("aria-sort", other === header ? direction : "none");
  }
  const rows = [...body.rows].map((row) => [sortValue(row.cells[Math.min(index, row.cells.length - 1)]), row]);
  rows.sort(([a], [b]) => {
    if (a === null || b === null) {
      return (a === null) - (b === null);
    }
    if (typeof a === "number" && typeof b === "number") {
      return sign * (a - b);
    }
    return sign * String(a).localeCompare(String(b), "en", { numeric: true });
  });
  body.append(...rows.map(([, row]) => row));
}

for (const button of document.querySelectorAll("button.sort")) {
  button.addEventListener("click", () => sortTable(button.closest("th")));
}

// Filtering the ledger.
const ledgerRows = [...document.querySelectorAll("#ledger-table tbody tr")];
const searchBox = document.getElementById("filter-text");
const choices = [...document.querySelectorAll(".filters select")];

function filterLedger() {
  const words = searchBox.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of ledgerRows) {
    const text = row.textContent.toLowerCase();
    const kept =
      choices.every((choice) => choice.value === "" || row.dataset[choice.dataset.column] === choice.value) &&
      words.every((word) => text.includes(word));
    row.hidden = !kept;
    shown += kept;
  }
  document.getElementById("filter-count").textContent = `${shown} of ${ledgerRows.length} cells`;
}

searchBox.addEventListener("input", filterLedger);
for (const choice of choices) {
  choice.addEventListener("change", filterLedger);
}

// Provenance of a cell.
const provenance = JSON.parse(document.getElementById("provenance-data").textContent);
const dialog = document.getElementById("provenance");
const dialogBody = document.getElementById("provenance-body");

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined && text !== null) {
    made.textContent = text;
  }
  for (const [key, value] of Object.entries(attributes)) {
    made.setAttribute(key, value);
  }
  return made;
}

function spelled(value) {
  if (value === null || value === undefined || value === "") {
    return "–";
  }
  if (Array.isArray(value)) {
    return value.map(spelled).join("; ");
  }
  if (typeof value === "object") {
    return Object.entries(value).map(([key, part]) => `${key} ${spelled(part)}`).join(", ") || "none";
  }
  return String(value);
}

// Without what is null: the model or the estimator decides these where it runs.
function given(values) {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== null));
}

function list(pairs) {
  const made = element("dl");
  for (const [name, value, field] of pairs) {
    made.append(element("dt", name), element("dd", spelled(value), field ? { "data-field": field } : {}));
  }
  return made;
}

function quoted(word) {
  return /^[\w.=-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

function command(experiment, cell) {
  const text = `dgmbench why ${[experiment, cell.row, cell.column].map(quoted).join(" ")}`;
  const box = element("div", undefined, { class: "command" });
  const button = element("button", "Copy command", { type: "button", class: "copy" });
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(box.querySelector("code"));
      button.textContent = "Selected";
    }
  });
  box.append(element("code", text), button);
  return box;
}

function measured(record) {
  const m = record && record.measured;
  if (!m) {
    return [];
  }
  return [
    ["cost", `${spelled(m.seconds)} s, peak ${spelled(m.peak_memory_mb)} MB, ${spelled(m.threads)} threads, ${spelled(m.device)}`],
    ["commit", m.commit],
    ["machine", m.machine],
    ["versions", m.versions],
  ];
}

function seedPart(seed, index, experiment) {
  const part = document.createDocumentFragment();
  const run = experiment.runs[seed.run];
  const evaluation = experiment.evaluations[seed.evaluation];
  const certificate = experiment.datasets[run.run.dataset_key];
  part.append(element("h3", `Seed ${index}`));
  const over = seed.test_se_over ? ` over ${seed.n_groups ?? seed.n_examples} ${seed.test_se_over}` : "";
  part.append(
    list([
      ["value", seed.value, `seed-${index}-value`],
      ["status", seed.reason ? `${seed.status}: ${seed.reason}` : seed.status],
      ["test ±", seed.test_se === undefined || seed.test_se === null ? null : `${seed.test_se}${over}`],
      ["estimator ±", seed.estimator_se],
      ["converged", seed.converged],
      ["evidence", seed.evidence],
      ["run", `${seed.run}: ${run.run.model}, seed ${run.run.seed}, code ${run.run.code}`],
      ["spec", given(run.run.spec)],
      ["training", run.steps === null ? null : `${run.steps} steps, ${run.parameters} parameters`],
      ...measured(run).map(([name, value]) => [`training ${name}`, value]),
      ["evaluation", `${seed.evaluation}: ${evaluation.evaluation.estimator}, code ${evaluation.evaluation.code}`],
      ["settings", given(evaluation.evaluation.settings)],
      ...measured(evaluation).map(([name, value]) => [`evaluation ${name}`, value]),
      ["dataset", run.run.dataset_key],
      ["certificate", run.certificate_sha256],
      ...Object.entries((certificate && certificate.splits) || {}).map(([name, split]) => [`${name} split`, `${split.rows} rows, sha256 ${split.sha256}`]),
    ]),
  );
  const log = [...(run.log_tail || []), ...(evaluation.log_tail || [])];
  if (log.length && seed.status !== "done") {
    part.append(element("pre", log.join("\n")));
  }
  return part;
}

function showProvenance(experimentName, key) {
  const experiment = provenance[experimentName];
  const cell = experiment.cells[key];
  document.getElementById("provenance-title").textContent = `${cell.label}: ${cell.metric} [${cell.unit}], ${cell.kind}`;
  dialogBody.replaceChildren(command(experimentName, cell));
  dialogBody.append(
    list([
      ["obtained", cell.obtained, "obtained"],
      ["test ±", cell.test_se],
      ["estimator ±", cell.estimator_se],
      ["seed sd", cell.seed_sd],
      ...(typeof cell.bits_per_pixel === "number"
        ? [["bits per pixel", `${cell.bits_per_pixel.toFixed(4)}: ${cell.bits_convention}`, "bits"]]
        : []),
      ["seeds", cell.inputs ? `${cell.n_seeds} of each row` : `${cell.n_seeds} of ${cell.seeds.length}`],
      ["status", cell.status],
      ["verdict", cell.verdict],
      ["reason", cell.reason],
      ["meaning", cell.description],
      ["dataset", cell.dataset],
      ["variant", cell.variant],
      ["column", cell.column],
      ["protocol", cell.protocol],
      ...(cell.selected_from.length ? [["chosen among", cell.selected_from]] : []),
    ]),
  );
  if (cell.published) {
    const p = cell.published;
    dialogBody.append(element("h3", "Published"));
    dialogBody.append(
      list([
        ["value", p.value],
        ["spread", p.spread],
        ["kind", p.kind],
        ["tolerance", p.tolerance],
        ["protocol", p.protocol],
        ["source", p.source],
        ...(cell.differs ? [["ours differs", cell.differs]] : []),
      ]),
    );
  }
  if (cell.inputs) {
    dialogBody.append(element("h3", "Made from"));
    dialogBody.append(
      list(
        cell.inputs.map((made) => [
          made.row,
          `${spelled(made.obtained)} ± ${spelled(made.uncertainty)}, published ${spelled(made.published)} (${made.verdict})`,
        ]),
      ),
    );
  }
  cell.seeds.forEach((seed, index) => dialogBody.append(seedPart(seed, index, experiment)));
  dialog.showModal();
  dialog.scrollTop = 0;
}

for (const button of document.querySelectorAll("button.cell")) {
  button.addEventListener("click", () => showProvenance(button.dataset.experiment, button.dataset.key));
}
document.getElementById("provenance-close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) {
    dialog.close();
  }
});

// Saving a figure: as it is, or drawn in pixels, 300 to the inch of a text block of 170 mm.
const PNG_WIDTH = 2008;

async function inPixels(image) {
  await image.decode(); // before its size is asked for
  const canvas = element("canvas", null, {
    width: PNG_WIDTH,
    height: Math.round((PNG_WIDTH * image.naturalHeight) / image.naturalWidth),
  });
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/png");
}

for (const button of document.querySelectorAll("button.save")) {
  button.addEventListener("click", async () => {
    const image = button.closest("figure").querySelector("img");
    const name = button.dataset.name;
    element("a", null, { href: name.endsWith(".png") ? await inPixels(image) : image.src, download: name }).click();
  });
}
