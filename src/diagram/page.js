(() => {
  const main = document.querySelector('main');
  const stages = [...document.querySelectorAll('.stage')];
  const shown = () => stages.find((stage) => stage.offsetParent) || stages[0];
  const scales = new Map();

  const zoom = (stage, scale, x, y) => {
    const svg = stage.querySelector('svg');
    const old = scales.get(stage) || 1;
    scale = Math.min(4, Math.max(0.05, scale));
    const box = svg.viewBox.baseVal;
    svg.setAttribute('width', box.width * scale);
    svg.setAttribute('height', box.height * scale);
    scales.set(stage, scale);
    stage.scrollLeft = (stage.scrollLeft + x) * scale / old - x;
    stage.scrollTop = (stage.scrollTop + y) * scale / old - y;
  };
  const middle = (stage, by) =>
    zoom(stage, (scales.get(stage) || 1) * by, stage.clientWidth / 2, stage.clientHeight / 2);
  const fit = (stage) => {
    const box = stage.querySelector('svg').viewBox.baseVal;
    const most = innerHeight * 0.78;
    zoom(stage, Math.min(1, stage.clientWidth / box.width, most / box.height), 0, 0);
  };

  for (const stage of stages) {
    stage.classList.add('moves');
    stage.addEventListener('wheel', (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      const at = stage.getBoundingClientRect();
      const scale = (scales.get(stage) || 1) * Math.exp(-event.deltaY / 300);
      zoom(stage, scale, event.clientX - at.left, event.clientY - at.top);
    }, { passive: false });
    let from = null;
    stage.addEventListener('pointerdown', (event) => {
      if (event.pointerType !== 'mouse' || event.button !== 0) return;
      from = { x: event.clientX, y: event.clientY, left: stage.scrollLeft, top: stage.scrollTop };
    });
    addEventListener('pointermove', (event) => {
      if (!from) return;
      stage.classList.add('moved');
      stage.scrollLeft = from.left - event.clientX + from.x;
      stage.scrollTop = from.top - event.clientY + from.y;
    });
    addEventListener('pointerup', () => {
      from = null;
      stage.classList.remove('moved');
    });
    stage.addEventListener('dragstart', (event) => event.preventDefault());
  }

  const tools = document.createElement('div');
  tools.className = 'tools';
  const button = (text, title, act) => {
    const made = document.createElement('button');
    made.textContent = text;
    made.title = title;
    made.addEventListener('click', act);
    tools.append(made);
  };
  button('−', 'smaller (Ctrl and the wheel, too)', () => middle(shown(), 0.8));
  button('+', 'larger (Ctrl and the wheel, too)', () => middle(shown(), 1.25));
  button('fit', 'all of it', () => fit(shown()));
  button('1:1', 'in its own size', () => zoom(shown(), 1, 0, 0));
  const search = document.createElement('input');
  search.type = 'search';
  search.placeholder = 'find steps';
  search.addEventListener('input', () => {
    const wanted = search.value.trim().toLowerCase();
    for (const step of document.querySelectorAll('a.step'))
      step.classList.toggle('faded', !step.textContent.toLowerCase().includes(wanted));
    for (const row of document.querySelectorAll('tbody tr'))
      row.classList.toggle('gone', !row.textContent.toLowerCase().includes(wanted));
  });
  tools.append(search);
  main.insertBefore(tools, main.querySelector('.stage'));

  // A drawing a little too wide is made to fit; a large one stays readable.
  for (const stage of stages) {
    const box = stage.querySelector('svg').viewBox.baseVal;
    if (stage.offsetParent && stage.clientWidth / box.width > 0.6) zoom(stage, Math.min(1, stage.clientWidth / box.width), 0, 0);
  }
  const open = () => {
    const row = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const details = row && row.querySelector('details');
    if (details) details.open = true;
  };
  addEventListener('hashchange', open);
  open();
})();
