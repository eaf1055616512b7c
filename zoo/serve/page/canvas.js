// The picture on which boxes and points are drawn, with the mouse, a finger or the keyboard.
// Runs inside gr.HTML, which gives `element`, `props`, `trigger` and `watch`. The value is
// {picture, overlay, width, height, serial, marks: [{option, value: [numbers]}]}, in pixels of the image itself.
const tools = props.tools || []; // [{option, kind, label, many, mark}]: mark is what a click adds after x, y
let marks = [], serial = 0, tool = 0, drag = null, cursor = null, shown = "", covered = "";

const stage = element.querySelector(".stage"), picture = element.querySelector("img.picture");
const overlay = element.querySelector("img.overlay"), canvas = element.querySelector("canvas");
const bar = element.querySelector(".bar"), said = element.querySelector(".said");
const value = () => props.value || {};
const known = () => value().picture && value().width > 0;

function button(text, act, title) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  if (title) made.title = title;
  made.addEventListener("click", act);
  bar.appendChild(made);
  return made;
}

function buildBar() {
  bar.replaceChildren();
  tools.forEach((one, place) => {
    const made = button(one.label, () => { tool = place; drag = null; buildBar(); });
    made.setAttribute("aria-pressed", String(place === tool));
  });
  if (tools.length) {
    button("Undo", undo, "Take the last mark back (Backspace)");
    button("Clear", () => { marks = []; tell("all marks are gone"); });
  }
}

function tell(text) {
  serial += 1;
  said.textContent = text;
  draw();
  props.value = { ...value(), marks, serial };
  trigger("input");
}

function undo() {
  const gone = marks.pop();
  tell(gone ? `${gone.option} ${gone.value.join(", ")} is taken back` : "there is no mark to take back");
}

function add(numbers) {
  const one = tools[tool];
  const room = one.kind === "box" ? 4 : 2;
  const rounded = numbers.slice(0, room).map((n) => Math.round(n * 10) / 10);
  if (!one.many) marks = marks.filter((mark) => mark.option !== one.option);
  marks.push({ option: one.option, value: [...rounded, ...one.mark] });
  tell(`${one.label}: ${rounded.join(", ")}`);
}

function place(event) {
  const rect = canvas.getBoundingClientRect();
  const inside = (n, most) => Math.min(Math.max(n, 0), most);
  const { width, height } = value();
  return [inside((event.clientX - rect.left) * width / rect.width, width),
          inside((event.clientY - rect.top) * height / rect.height, height)];
}

function corners(from, to) {
  return [Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.max(from[0], to[0]), Math.max(from[1], to[1])];
}

function finish(to) {
  const box = corners(drag, to);
  drag = null;
  if (box[2] - box[0] >= 1 && box[3] - box[1] >= 1) add(box);
  else { said.textContent = "the box is empty: draw from one corner to the other"; draw(); }
}

const within = ([x, y]) => [Math.min(x, value().width - 0.5), Math.min(y, value().height - 0.5)];

canvas.addEventListener("pointerdown", (event) => {
  if (!tools.length || !known() || event.button !== 0) return;
  event.preventDefault();
  canvas.focus();
  cursor = place(event);
  if (tools[tool].kind === "box") { drag = cursor; canvas.setPointerCapture(event.pointerId); draw(); }
  else add(within(cursor));
});
canvas.addEventListener("pointermove", (event) => { if (drag) { cursor = place(event); draw(); } });
canvas.addEventListener("pointerup", (event) => { if (drag) finish(place(event)); });
canvas.addEventListener("keydown", (event) => {
  if (!tools.length || !known()) return;
  const { width, height } = value(), far = event.shiftKey ? 1 : Math.max(width, height) / 50;
  const moves = { ArrowLeft: [-far, 0], ArrowRight: [far, 0], ArrowUp: [0, -far], ArrowDown: [0, far] };
  cursor = cursor || [width / 2, height / 2];
  if (moves[event.key]) {
    cursor = [Math.min(Math.max(cursor[0] + moves[event.key][0], 0), width),
              Math.min(Math.max(cursor[1] + moves[event.key][1], 0), height)];
    said.textContent = `at ${Math.round(cursor[0])}, ${Math.round(cursor[1])}`;
    draw();
  } else if (event.key === "Enter" || event.key === " ") {
    if (tools[tool].kind !== "box") add(within(cursor));
    else if (drag) finish(cursor);
    else { drag = cursor; said.textContent = "first corner; go to the other one and press Enter"; draw(); }
  } else if (event.key === "Escape") { drag = null; draw(); }
  else if (event.key === "Backspace") undo();
  else return;
  event.preventDefault();
});

function draw() {
  if (!known()) return;
  const rect = picture.getBoundingClientRect(), dense = window.devicePixelRatio || 1;
  if (!rect.width) return;
  canvas.width = rect.width * dense;
  canvas.height = rect.height * dense;
  const pen = canvas.getContext("2d"), sx = canvas.width / value().width, sy = canvas.height / value().height;
  pen.clearRect(0, 0, canvas.width, canvas.height);
  const stroke = (path, colour) => { // dark below light, so that it shows on any picture
    for (const [width, ink] of [[4 * dense, "black"], [2 * dense, colour]]) {
      pen.lineWidth = width; pen.strokeStyle = ink; pen.beginPath(); path(); pen.stroke();
    }
  };
  const box = (b, colour) => stroke(() => 
    pen.rect(b[0] * sx, b[1] * sy, (b[2] - b[0]) * sx, (b[3] - b[1]) * sy), colour);
  for (const mark of marks) {
    const v = mark.value, outside = v.length === 3 ? v[2] !== 1 : mark.option === "background";
    if (v.length === 4) { box(v, "#ffd400"); continue; }
    const x = v[0] * sx, y = v[1] * sy, r = 6 * dense;
    stroke(() => {
      pen.arc(x, y, r, 0, 7);
      pen.moveTo(x - r / 2, y); pen.lineTo(x + r / 2, y);
      if (!outside) { pen.moveTo(x, y - r / 2); pen.lineTo(x, y + r / 2); }
    }, outside ? "#ff5a4d" : "#4dff7c");
  }
  if (drag && cursor) box(corners(drag, cursor), "#ffffff");
  if (cursor && document.activeElement === canvas && !drag) {
    const x = cursor[0] * sx, y = cursor[1] * sy, r = 12 * dense;
    stroke(() => { pen.moveTo(x - r, y); pen.lineTo(x + r, y); pen.moveTo(x, y - r); pen.lineTo(x, y + r); }, "#ffffff");
  }
}

function take() {
  const given = value();
  stage.hidden = !known();
  bar.hidden = !known();
  if (!known()) { marks = []; return; }
  if (given.picture !== shown) {
    shown = given.picture; cursor = null; drag = null; marks = given.marks || []; serial = given.serial || 0;
    picture.src = given.picture;
  } else if ((given.serial || 0) >= serial) { serial = given.serial || 0; marks = given.marks || []; }
  if ((given.overlay || "") !== covered) { covered = given.overlay || ""; overlay.src = covered; overlay.hidden = !covered; }
  draw();
}

canvas.tabIndex = tools.length ? 0 : -1;
if (!tools.length) canvas.setAttribute("aria-hidden", "true");
picture.addEventListener("load", draw);
canvas.addEventListener("focus", draw);
canvas.addEventListener("blur", draw);
new ResizeObserver(draw).observe(stage);
watch("value", take);
buildBar();
take();
