"""The style sheet of HTML pages: light and dark, wide and narrow, with the pictures' colours of drawing.py."""

STYLE = """\
:root {
  color-scheme: light dark;
  --ground: #ffffff; --ink: #1d2127; --quiet: #5b6470; --line: #d8dde3; --panel: #f4f6f8;
  --pass: #00704f; --fail: #b3261e; --undecided: #8a5a00; --blue: #0072B2; --orange: #C44E00; --rose: #A8447F;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #14171b; --ink: #e6e9ed; --quiet: #9aa4b0; --line: #353b44; --panel: #1d2127;
    --pass: #4cc79a; --fail: #ff8a80; --undecided: #f0b84a; --blue: #62b5ea; --orange: #ff9a5c; --rose: #e294c0;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; margin: .5rem 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.verdict { border-left: .4rem solid var(--quiet); background: var(--panel); padding: .8rem 1rem; border-radius: .3rem; }
.verdict h2 { margin: 0; font-size: 1.25rem; }
.verdict p { margin: .4rem 0 0; }
.verdict.pass { border-color: var(--pass); } .verdict.pass h2 { color: var(--pass); }
.verdict.fail { border-color: var(--fail); } .verdict.fail h2 { color: var(--fail); }
.verdict.undecided { border-color: var(--undecided); } .verdict.undecided h2 { color: var(--undecided); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .3rem .8rem .3rem 0; text-align: left; white-space: nowrap; border-bottom: 1px solid var(--line); }
td:not(.number) { white-space: normal; }
th { color: var(--quiet); font-weight: 600; }
.number { text-align: right; }
.texts td { vertical-align: top; }
.texts td:last-child { white-space: pre-wrap; overflow-wrap: anywhere; min-width: 18rem; }
.note, figcaption { color: var(--quiet); font-size: .9rem; }
figure { margin: 0; overflow-x: auto; }
figure svg { width: 100%; min-width: 32rem; max-width: 44rem; height: auto; }
figure svg [fill="#333333"] { fill: var(--ink); }
figure svg [stroke="#333333"] { stroke: var(--ink); }
figure svg [fill="#0072B2"] { fill: var(--blue); } figure svg [stroke="#0072B2"] { stroke: var(--blue); }
figure svg [fill="#C44E00"] { fill: var(--orange); } figure svg [stroke="#C44E00"] { stroke: var(--orange); }
figure svg [fill="#A8447F"] { fill: var(--rose); } figure svg [stroke="#A8447F"] { stroke: var(--rose); }
dl { display: grid; grid-template-columns: minmax(8rem, max-content) 1fr; gap: .1rem 1rem; margin: 0; }
dl { font-size: .9rem; }
dt { color: var(--quiet); overflow-wrap: anywhere; }
dd { margin: 0; overflow-wrap: anywhere; }
pre { background: var(--panel); padding: .6rem .8rem; border-radius: .3rem; overflow-x: auto; font-size: .9rem; }
ul { padding-left: 1.2rem; }
@media (max-width: 30rem) { dl { display: block; } dd { margin: 0 0 .4rem; } }
"""
