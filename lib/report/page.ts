/** The design that all reports share: the frame with its style sheet, and small pieces. */
import { printable } from '../internal/file-error'

export function escaped(text: string): string {
  return printable(text).replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`)
}

/** A colour and what it stands for. */
export function key(colour: string, name: string): string {
  return `<span class="key"><i style="background:${colour}"></i>${name}</span>`
}

/** Figures in large type, each with what it is. */
export function figures(entries: [value: string, name: string, note?: string][]): string {
  const one = ([value, name, note]: (typeof entries)[0]) =>
    `<div class="panel"><b>${value}</b><span>${name}</span>${note ? `<small>${note}</small>` : ''}</div>`
  return `<div class="figures">${entries.map(one).join('')}</div>`
}

/** Notes of the reasons why figures mean less than they seem to. */
export function warningNotes(warnings: string[]): string {
  return warnings.map((warning) => `<p class="caption"><b>Mind:</b> ${escaped(warning)}.</p>`).join('')
}

/** The files that were used, as entries of a description list. Those that were not named are left out. */
export function fileEntries(files: Record<string, string | undefined>): string {
  return Object.entries(files)
    .filter((entry): entry is [string, string] => entry[1] !== undefined)
    .map(
      ([name, file]) =>
        `<dt>${name[0]?.toUpperCase()}${name.slice(1)}</dt><dd><code>${escaped(file)}</code></dd>`
    )
    .join('')
}

/** A whole page: head, style sheet, body. Nothing in it is fetched from anywhere. */
export function page(title: string, body: string): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${escaped(title)}</title>
<style>
:root { --paper: #fff; --card: #f7f8fa; --ink: #1b1f24; --soft: #5b636e; --line: #dfe3e8; --accent: #2f6fdb; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171b; --card: #1c2026; --ink: #e6e9ed; --soft: #9aa3af; --line: #2e343c; --accent: #7aa9ff; }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.6 system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 3rem 1.25rem 5rem; }
section { margin-top: 3.5rem; }
h1 { font-size: clamp(1.9rem, 5vw, 3rem); line-height: 1.12; letter-spacing: -.02em; margin: 0 0 1rem; }
h2 { font-size: 1.5rem; line-height: 1.25; letter-spacing: -.01em; margin: 0 0 .5rem; }
h3 { font-size: 1rem; margin: 0 0 .5rem; }
h3 small { font-weight: normal; color: var(--soft); font-size: .85rem; float: right; }
p { max-width: 46rem; margin: 0 0 1rem; }
.kicker { color: var(--accent); font-weight: 600; margin-bottom: .4rem; }
.lead { font-size: 1.15rem; color: var(--soft); }
.note { border-left: 3px solid var(--accent); padding: .2rem 0 .2rem .9rem; }
.caption, figcaption { color: var(--soft); font-size: .9rem; line-height: 1.5; }
.caption { margin-top: 1rem; }
.caption b { color: var(--ink); font-weight: 600; }
.grid { display: grid; gap: 1rem; margin-top: 1.25rem; }
.three { grid-template-columns: repeat(3, minmax(0, 1fr)); }
.two { grid-template-columns: repeat(2, minmax(0, 1fr)); }
figure { margin: 0; }
.panel { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .9rem 1rem 1rem; min-width: 0; }
.beside { display: grid; grid-template-columns: minmax(0, 34rem) minmax(0, 1fr); gap: 1.5rem; align-items: center; margin-top: 1.25rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: 1rem; margin-top: 1.25rem; }
.figures b { display: block; font-size: 1.7rem; line-height: 1.2; letter-spacing: -.02em; font-variant-numeric: tabular-nums; }
.figures span { display: block; }
.figures small { display: block; color: var(--soft); font-size: .85rem; }
.tables { gap: 1.5rem 2.5rem; }
.charts { max-width: 58rem; }
svg { display: block; width: 100%; height: auto; color: var(--soft); }
.legend { font-size: .9rem; line-height: 1.5; }
.legend p { margin-bottom: .7rem; }
.key { display: inline-flex; align-items: center; margin-right: 1rem; white-space: nowrap; }
.key i { width: .75rem; height: .75rem; border-radius: 50%; margin-right: .4rem; flex: none; }
.scroll { overflow-x: auto; margin-top: 1.25rem; }
table { border-collapse: collapse; width: 100%; font-size: .93rem; }
th, td { padding: .45rem .6rem; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { color: var(--soft); font-weight: 500; font-size: .85rem; line-height: 1.3; vertical-align: bottom; }
tbody th { font-weight: 600; white-space: nowrap; }
th:first-child, td:first-child { padding-left: 0; }
.numbers th:not(:first-child), .numbers td:not(:first-child) { text-align: right; font-variant-numeric: tabular-nums; }
.numbers td { white-space: nowrap; }
.narrow { max-width: 32rem; }
.probes { display: grid; gap: .8rem; margin-top: 1.25rem; }
.probe { display: flex; gap: .8rem; margin: 0; }
.probe figure { flex: none; width: 6.5rem; font-size: .8rem; line-height: 1.35; overflow-wrap: anywhere; }
.probe figure:first-child { width: 7.3rem; padding-right: .8rem; border-right: 1px solid var(--line); }
.probe img { display: block; width: 6.5rem; height: 6.5rem; object-fit: cover; border-radius: 6px; margin-bottom: .3rem; }
.probe .right b { color: var(--accent); }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .4rem 1.4rem; margin: 1.25rem 0; max-width: 56rem; }
dt { color: var(--soft); }
dd { margin: 0; }
code { font: .88em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.flag { white-space: nowrap; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .8rem 1rem; overflow-x: auto; }
@media (max-width: 860px) { .three { grid-template-columns: repeat(2, minmax(0, 1fr)); } .two, .beside { grid-template-columns: minmax(0, 1fr); } }
@media (max-width: 560px) {
  main { padding: 1.75rem 1rem 3rem; }
  section { margin-top: 2.5rem; }
  .three { grid-template-columns: minmax(0, 1fr); }
  .panel { padding: .75rem; }
  .figures { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .75rem; }
  .figures b { font-size: 1.45rem; }
  .figures > :last-child:nth-child(odd) { grid-column: 1 / -1; }
  dl { grid-template-columns: minmax(0, 1fr); gap: 0; }
  dd { margin-bottom: .7rem; }
  .settings thead { display: none; }
  .settings tr, .settings th, .settings td { display: block; padding: .1rem 0; border: 0; }
  .settings tr { padding: .5rem 0; border-bottom: 1px solid var(--line); }
  .settings td::before { content: attr(data-label) ': '; color: var(--soft); }
}
@media print { .panel, table { break-inside: avoid; } }
</style>
</head>
<body><main>${body}
</main></body>
</html>
`
}
