// Draws the dashboard with Grafana's own components: in, contrib/grafana/tcptrace.json (as dashboard.json), and the answers of the
// Prometheus that the address of the page names; out, the panels, or the error.

import '@fontsource/inter/latin-400.css';
import '@fontsource/inter/latin-500.css';
import {
  applyFieldOverrides,
  createDataFrame,
  createTheme,
  dateTime,
  FieldType,
  standardFieldConfigEditorRegistry,
  ThemeContext,
} from '@grafana/data';
import { GlobalStyles, PanelChrome, TimeSeries } from '@grafana/ui';
import { createRoot } from 'react-dom/client';

import dashboard from './dashboard.json';

const { prometheus, from, to, step, rows } = Object.fromEntries(new URLSearchParams(location.search));
const theme = createTheme({ colors: { mode: 'dark' } });
// Grafana's grid: 24 columns, rows of 30 pixels, gaps of 8.
const GAP = 8;
const ROW = 30 + GAP;
const COLUMN = (innerWidth - GAP) / 24;
// Grafana's defaults where the panel sets nothing.
const COLOR = { mode: 'palette-classic' };
const CUSTOM = { drawStyle: 'line', lineInterpolation: 'linear', gradientMode: 'none', axisGridShow: true };

async function query(target, defaults) {
  const variables = { instance: '.*', job: '.*', __rate_interval: `${4 * step}s` };
  const query = target.expr.replace(/\$(\w+)/g, (_, name) => variables[name]);
  const answer = await fetch(`${prometheus}/api/v1/query_range?${new URLSearchParams({ query, start: from, end: to, step })}`);
  const { data, error } = await answer.json();
  if (!data?.result.length) {
    throw new Error(`${query}: ${error ?? 'no data'}`);
  }
  return data.result.map(({ metric, values }) => {
    const displayNameFromDS = target.legendFormat.replace(/{{(\w+)}}/g, (_, label) => metric[label] ?? '');
    const config = { color: COLOR, ...defaults, custom: { ...CUSTOM, ...defaults.custom }, displayNameFromDS };
    const fields = [
      { name: 'Time', type: FieldType.time, values: values.map(([seconds]) => 1000 * seconds) },
      { name: 'Value', type: FieldType.number, labels: metric, values: values.map(([, value]) => Number(value)), config },
    ];
    return createDataFrame({ refId: target.refId, fields });
  });
}

async function series({ fieldConfig, targets }) {
  if (fieldConfig.overrides.some(({ properties }) => properties.some(({ id }) => id !== 'color'))) {
    throw new Error('of overrides this page draws only colors');
  }
  const answers = await Promise.all(targets.map((target) => query(target, fieldConfig.defaults)));
  return applyFieldOverrides({ data: answers.flat(), fieldConfig, replaceVariables: (text) => text, theme, timeZone: 'utc' });
}

function Panel({ panel, frames }) {
  const { x, y, w, h } = panel.gridPos;
  const shared = { frames, timeRange: { from: dateTime(1000 * from), to: dateTime(1000 * to) }, timeZone: 'utc' };
  const legend = { showLegend: true, ...panel.options.legend };
  return (
    <div style={{ position: 'absolute', left: GAP + x * COLUMN, top: GAP + y * ROW }}>
      <PanelChrome title={panel.title} description={panel.description} width={w * COLUMN - GAP} height={h * ROW - GAP}>
        {(width, height) => <TimeSeries {...shared} legend={legend} width={width} height={height} />}
      </PanelChrome>
    </div>
  );
}

async function draw() {
  const color = { id: 'color', path: 'color', process: (value) => value, shouldApply: () => true };
  standardFieldConfigEditorRegistry.setInit(() => [color]);
  // The width of the axes is measured with the font.
  await Promise.all([400, 500].map((weight) => document.fonts.load(`${weight} 12px Inter`)));
  const panels = dashboard.panels.filter(({ gridPos }) => gridPos.y < rows);
  const drawn = await Promise.all(panels.map(async (panel) => ({ panel, frames: await series(panel) })));
  createRoot(document.body).render(
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      {drawn.map((props) => (
        <Panel key={props.panel.id} {...props} />
      ))}
    </ThemeContext.Provider>
  );
}

draw().catch((error) => document.body.append(String(error)));
