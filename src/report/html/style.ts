/** One style for all pages, within each: there is nothing else that a page loads. Colours are those of both themes, by name. */
export const STYLE = `
:root{color-scheme:light dark;--bg:#f7f7f5;--card:#fff;--text:#1d2024;--muted:#5c636b;--line:#e3e3df;--soft:#efefec;--link:#1a5fb4;
--ok:#19724a;--ok-bg:#e3f3ea;--warning:#835300;--warning-bg:#fdf0cf;--critical:#ad2018;--critical-bg:#fce8e6;
--filesystem:#138a72;--crash:#3f74d1;--offline:#8a6fc0;--lost:#c9372c;--proved:#1d2024;--booted:#b7791f;
--s0:#3f74d1;--s1:#138a72;--s2:#c77d1b;--s3:#8a6fc0;--s4:#c2497e;--s5:#5b8c2a;--s6:#2b8fae;--s7:#8b8f94}
@media (prefers-color-scheme:dark){:root{--bg:#121417;--card:#1a1d21;--text:#e5e7ea;--muted:#9ba2ab;--line:#2d3138;--soft:#23272d;--link:#8ab4f8;
--ok:#5ccb95;--ok-bg:#17342a;--warning:#f0bd57;--warning-bg:#3a2d10;--critical:#ff9087;--critical-bg:#431d1b;
--filesystem:#33b899;--crash:#6f9df0;--offline:#ab94e0;--lost:#f2685e;--proved:#e5e7ea;--booted:#f0b849;
--s0:#6f9df0;--s1:#33b899;--s2:#e0a04a;--s3:#ab94e0;--s4:#e27aa8;--s5:#8fbf5a;--s6:#5bbcd8;--s7:#9ba2ab}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--bg);color:var(--text);font:14px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","DejaVu Sans",sans-serif;font-variant-numeric:tabular-nums;overflow-wrap:break-word}
main,header.top,footer{max-width:75rem;margin:0 auto;padding:0 1.25rem}
header.top{padding-top:1.75rem;padding-bottom:.5rem}
footer{padding-top:1.5rem;padding-bottom:2.5rem;color:var(--muted);font-size:12px}
h1,h2,h3{line-height:1.25;margin:0;font-weight:600;letter-spacing:-.01em;overflow-wrap:anywhere}
h1{font-size:1.6rem}h2{font-size:1.15rem}h3{font-size:1rem}
p{margin:.25rem 0}
a{color:var(--link);text-decoration:none}a:hover{text-decoration:underline}
a:focus-visible,.scroll:focus-visible{outline:2px solid var(--link);outline-offset:2px;border-radius:4px}
small,.muted{color:var(--muted);font-size:12px}
.none{color:var(--muted)}
.hidden{position:absolute;width:1px;height:1px;margin:-1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
nav{font-size:13px;margin-bottom:.35rem}
.title{display:flex;flex-wrap:wrap;align-items:center;gap:.35rem .75rem}
.state{display:inline-flex;align-items:center;gap:.4em;border-radius:999px;padding:.1em .7em .1em .55em;font-size:12px;font-weight:600;white-space:nowrap}
.state::before{content:"";width:.6em;height:.6em;border-radius:50%;background:currentColor}
.state.warning::before{border-radius:1px;transform:rotate(45deg)}
.state.critical::before{border-radius:1px}
.state.ok{color:var(--ok);background:var(--ok-bg)}
.state.warning{color:var(--warning);background:var(--warning-bg)}
.state.critical{color:var(--critical);background:var(--critical-bg)}
section.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:1rem 1.15rem 1.15rem;margin:.9rem 0}
section.card>h2,section.card>h3{margin-bottom:.75rem}
article.vm{margin-top:2.5rem;padding-top:1rem;border-top:2px solid var(--line)}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));background:var(--card);border:1px solid var(--line);border-radius:10px;overflow:hidden;margin:.9rem 0}
.facts>div{padding:.7rem 1rem;box-shadow:1px 1px 0 var(--line)}
.facts dt{color:var(--muted);font-size:12px}
.facts dd{margin:.1rem 0 0;font-size:1.05rem;font-weight:600;overflow-wrap:anywhere}
.facts dd small{display:block;font-weight:400}
.reasons{list-style:none;margin:0;padding:0}
.reasons li{padding:.45rem .7rem;border-radius:6px;margin:.35rem 0;overflow-wrap:anywhere}
.reasons li.critical{background:var(--critical-bg);color:var(--critical)}
.reasons li.warning{background:var(--warning-bg);color:var(--warning)}
.reasons a{color:inherit;font-weight:600;text-decoration:underline}
table{border-collapse:collapse;width:100%;text-align:left}
th{font-weight:600}
thead th{color:var(--muted);font-size:12px;font-weight:500;white-space:nowrap}
th,td{padding:.4rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}
tbody:last-child tr:last-child>*{border-bottom:0}
.number{text-align:right;white-space:nowrap}
.bad{color:var(--critical)}
table.plain th,table.plain td{overflow-wrap:anywhere}
table.plain.disks{max-width:28rem;margin-top:.75rem}
.scroll{overflow-x:auto;margin:0 -1.15rem -1.15rem;padding:0 1.15rem 1.15rem}
table.points{font-size:13px}
table.points td{white-space:nowrap}table.points td.parts{white-space:normal;min-width:16rem}
table.points tr:has(+.remarks)>*{border-bottom:0}
table.points .remarks td{white-space:normal;padding-top:0}
.remarks ul{list-style:none;margin:0;padding:0;position:sticky;left:.6rem;width:min(70rem,100vw - 6rem);color:var(--muted);overflow-wrap:anywhere}
table.points .first{position:sticky;left:-1.15rem;background:var(--card);font-weight:500;white-space:nowrap}
table.points tbody tr:hover>*{background:var(--soft)}
table.points tr.chain>th{background:var(--soft);color:var(--text);font-size:13px}
table.points tr.chain span{position:sticky;left:0}
.level{font-size:11px;font-weight:600;letter-spacing:.03em;color:var(--muted)}
.level.full,.level.copy{color:var(--text)}
.dot{display:inline-block;width:.6em;height:.6em;border-radius:50%;margin-right:.5em;background:var(--muted)}
.dot.filesystem{background:var(--filesystem)}.dot.crash{background:var(--crash)}.dot.offline{background:var(--offline)}.dot.lost{background:var(--lost)}
.months{display:grid;grid-template-columns:repeat(auto-fill,minmax(8.75rem,12.5rem));gap:1rem 1.25rem}
figure{margin:0}
.month figcaption{font-size:13px;font-weight:600;margin-bottom:.3rem}.month figcaption span{color:var(--muted);font-weight:400;font-size:12px;margin-left:.3em}
.month svg{display:block;width:100%;height:auto}
.month text{fill:var(--muted);font-size:8.5px}.month .weekday{text-anchor:middle;font-size:8px}
.day{fill:var(--soft);stroke:none}.day.empty{fill:none;stroke:var(--line)}
.filesystem{fill:var(--filesystem)}.crash{fill:var(--crash)}.offline{fill:var(--offline)}.lost{fill:var(--lost)}.proved{fill:var(--proved)}.booted{fill:var(--booted)}
.full,.inc,.diff{fill:var(--muted)}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;margin:.9rem 0 0;padding:0;color:var(--muted);font-size:12px}
.legend li{display:flex;align-items:center;gap:.4em}.legend svg{width:14px;height:16px}
.swatch{display:inline-block;width:.75em;height:.75em;border-radius:2px;margin-right:.5em;background:var(--muted)}.legend .swatch{margin:0}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr));gap:1.25rem 2rem}
.chart figcaption{font-size:13px;color:var(--muted);margin-bottom:.5rem}
.plot{display:grid;grid-template-columns:auto minmax(0,1fr);column-gap:.6rem}
.plot svg{display:block;width:100%;height:11rem;overflow:visible}
.plot .y,.plot .x{display:flex;justify-content:space-between;font-size:11px;line-height:1;color:var(--muted);white-space:nowrap}
.plot .y{flex-direction:column;text-align:right;margin:-.5em 0}
.plot .x{grid-column:2;margin-top:.6rem}
.grid{stroke:var(--line);stroke-width:1;vector-effect:non-scaling-stroke;fill:none}
.area{opacity:.85}
.dots{fill:none;stroke:currentColor;stroke-width:4.5;stroke-linecap:round;vector-effect:non-scaling-stroke;opacity:.75}
${[0, 1, 2, 3, 4, 5, 6, 7].map((at) => `.area.s${at}{fill:var(--s${at})}.dots.s${at}{stroke:var(--s${at})}.swatch.s${at}{background:var(--s${at})}`).join('')}
.dots.d-full{stroke:var(--s2)}.swatch.d-full{background:var(--s2)}.dots.d-inc{stroke:var(--s0)}.swatch.d-inc{background:var(--s0)}
.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,16rem),1fr));gap:1rem}
.pictures img{display:block;width:100%;height:auto;border:1px solid var(--line);border-radius:6px;background:#000}
.unseen{display:flex;align-items:center;justify-content:center;min-height:8rem;margin:0;padding:1rem;border:1px dashed var(--line);border-radius:6px;color:var(--muted);overflow-wrap:anywhere}
.pictures figcaption{font-size:12px;color:var(--muted);margin-top:.35rem}
.strip{display:block;width:119px;height:14px}
.strip .day{fill:var(--line)}
.meter{display:block;width:4.5rem;height:4px;margin-top:.3rem;border-radius:2px;overflow:hidden}.meter .all{fill:var(--line)}.meter .ok{fill:var(--ok)}.meter .over{fill:var(--warning)}
table.overview td,table.overview th{white-space:nowrap}
table.overview tbody th{font-weight:600;white-space:normal;overflow-wrap:anywhere;min-width:8rem}
.share{display:block;width:100%;height:6px;border-radius:3px;overflow:hidden;margin:.75rem 0 .25rem}
.share .ok{fill:var(--ok)}.share .warning{fill:var(--booted)}.share .critical{fill:var(--lost)}
.scroll table.overview{min-width:100%}
@media screen and (max-width:46rem){
main,header.top,footer{padding-left:.75rem;padding-right:.75rem}
section.card{padding:.85rem .85rem 1rem}
.facts{grid-template-columns:1fr 1fr}.facts>div{padding:.55rem .75rem}
.scroll{margin:0 -.85rem -1rem;padding:0 .85rem 1rem}table.points .first{left:-.85rem}
.plot .x span:nth-child(2):not(:last-child),.plot .x span:nth-child(4):not(:last-child){display:none}
.months{grid-template-columns:repeat(auto-fill,minmax(8.75rem,1fr));gap:.9rem}
table.overview,table.overview tbody,table.overview tr,table.overview td,table.overview tbody th{display:block}
table.overview thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
table.overview tr{padding:.75rem 0;border-bottom:1px solid var(--line)}
table.overview tbody tr:last-child{border-bottom:0}
table.overview td,table.overview tbody th{border:0;padding:.1rem 0;text-align:left}
table.overview tbody th{font-size:15px}
table.overview td[data-label]{display:flex;justify-content:space-between;gap:1rem;white-space:normal;text-align:right}
table.overview td[data-label]::before{content:attr(data-label);color:var(--muted);flex:none}
table.stack thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
table.stack,table.stack tbody,table.stack tr,table.stack td,table.stack tbody th{display:block}
table.stack tr{padding:.6rem 0;border-bottom:1px solid var(--line)}table.stack tbody tr:last-child{border-bottom:0}
table.stack td,table.stack tbody th{border:0;padding:.1rem 0;text-align:left}
}
@media print{
:root{--bg:#fff;--card:#fff}
body{font-size:10pt}section.card,.facts{border-color:#bbb}section.card,.month,figure{break-inside:avoid}section.card.long{break-inside:auto}
.scroll{overflow:visible;margin:0;padding:0}tr{break-inside:avoid}
table.points{font-size:6.5pt}table.points small,table.points .level,table.points thead th{font-size:6pt}table.overview{font-size:7.5pt}table.overview thead th,table.overview .state{font-size:6.5pt}
table.points td,table.points .first,table.overview td,table.overview thead th{white-space:normal;position:static}table.points :is(th,td),table.overview :is(th,td){padding:.15rem .25rem}
table.points .number,table.points td:first-of-type,table.overview .number{white-space:nowrap}table.points .remarks td{white-space:normal}table.points .dot{margin-right:.2em}table.points td.parts{min-width:7rem}table.overview tbody th{min-width:5rem}.strip{width:80px}.meter{width:3rem}.remarks ul{position:static;width:auto}
nav{display:none}a{color:inherit}.day,.area,.dots,.dot,.swatch,.state,.reasons li,.share,.meter,.strip{print-color-adjust:exact;-webkit-print-color-adjust:exact}
article.vm{break-before:page}
}
`;
