// What both pages show: texts, rows, and the state of the connection.

import { Live } from "./live.js";

// at returns the element of an id.
export function at(id) {
	return document.getElementById(id);
}

// say sets the text of an element, if it is another. It hides an element without
// a text.
export function say(element, text) {
	put(element, text);
	element.hidden = text === "";
}

// put sets the text of an element, if it is another.
export function put(element, text) {
	if (element.textContent !== text) {
		element.textContent = text;
	}
}

// Rows are the rows of a table, which keep their elements, and so the focus, while
// their values and their order change.
export class Rows {
	#table;
	#body;
	#labels; // of the columns
	#classes;
	#rows = new Map(); // by name

	constructor(table) {
		const heads = [...table.tHead.rows[0].cells];
		this.#table = table;
		this.#body = table.tBodies[0];
		this.#labels = heads.map((head) => head.textContent);
		this.#classes = heads.map((head) => head.className);
	}

	// show shows items in their order. Each has a name, the texts of its cells, and
	// perhaps the address of a link for the first cell, and a class.
	show(items) {
		const rows = new Map();
		for (const item of items) {
			const row = this.#rows.get(item.name) ?? this.#make(item);
			rows.set(item.name, row);
			row.className = item.class ?? "";
			item.cells.forEach((text, i) => {
				const cell = row.cells[i];
				put(cell.firstElementChild, text);
				cell.classList.toggle("blank", text === "");
			});
		}
		for (const [name, row] of this.#rows) {
			if (!rows.has(name)) {
				row.remove();
			}
		}
		this.#rows = rows;
		this.#order([...rows.values()]);
		this.#table.hidden = items.length === 0;
	}

	#make(item) {
		const row = document.createElement("tr");
		row.setAttribute("role", "row");
		item.cells.forEach((_, i) => {
			const cell = document.createElement(i === 0 ? "th" : "td");
			if (i === 0) {
				cell.scope = "row";
			}
			cell.setAttribute("role", i === 0 ? "rowheader" : "cell");
			cell.className = this.#classes[i];
			cell.dataset.label = this.#labels[i];
			const link = i === 0 && item.link;
			const text = document.createElement(link ? "a" : "bdi");
			if (link) {
				text.href = item.link;
				text.dir = "auto";
			}
			cell.append(text);
			row.append(cell);
		});
		return row;
	}

	// order puts rows in order. A row with the focus stays where it is, and the others
	// move around it: a browser takes the focus from an element that moves.
	#order(rows) {
		if (rows.length === 0) {
			return;
		}
		const focused = rows.findIndex((row) => row.contains(document.activeElement));
		const fixed = Math.max(focused, 0);
		if (!rows[fixed].isConnected) {
			this.#body.append(rows[fixed]);
		}
		for (let i = fixed - 1; i >= 0; i--) {
			if (rows[i].nextSibling !== rows[i + 1]) {
				rows[i + 1].before(rows[i]);
			}
		}
		for (let i = fixed + 1; i < rows.length; i++) {
			if (rows[i].previousSibling !== rows[i - 1]) {
				rows[i - 1].after(rows[i]);
			}
		}
	}
}

// A Voice tells a screen reader the newest text, but not more often than it can be
// heard.
class Voice {
	#pause = 5_000; // in ms
	#next = "";
	#timer = 0;

	say(text) {
		this.#next = text;
		this.#timer ||= setTimeout(() => {
			this.#timer = 0;
			put(at("spoken"), this.#next);
		}, at("spoken").textContent === "" ? 500 : this.#pause);
	}
}

export const voice = new Voice();

// watch shows what comes from the stream at url, and the state of the connection.
export function watch(url, { hello, news }) {
	const trouble = new Trouble();
	let connection = "connecting";
	const show = () => {
		const state = connection === "live" && trouble.kind === "redis" ? "stale" : connection;
		put(at("state"), state);
		at("state").className = state;
	};
	const live = new Live(url, {
		hello,
		news(data) {
			trouble.set("redis", data.error && `Redis: ${data.error}. ${age(data)}`);
			show();
			news(data);
		},
		state(name, problem) {
			const text = ["Connection lost, trying again", problem].filter(Boolean).join(": ");
			trouble.set("connection", name === "lost" && `${text}.`);
			connection = name;
			show();
		},
	});
	const pause = at("pause");
	pause.addEventListener("click", () => {
		const paused = pause.getAttribute("aria-pressed") !== "true";
		pause.setAttribute("aria-pressed", paused);
		live.paused = paused;
	});
}

// age says from when the values on a page are, if they are old.
function age({ at, old }) {
	return old && at > 0 ? `The values are from ${new Date(at).toLocaleTimeString()}.` : "";
}

// A Trouble shows what is wrong with the connection or else with Redis. A screen
// reader hears when that begins and ends, and not each change of an error's text.
class Trouble {
	kind = ""; // of the trouble that is shown; "": there is none
	#texts = { connection: "", redis: "" };

	// set sets the text of a kind of trouble. There is none without a text.
	set(kind, text) {
		this.#texts[kind] = text || "";
		const now = Object.keys(this.#texts).find((k) => this.#texts[k] !== "") ?? "";
		say(at("trouble"), this.#texts[now] ?? "");
		document.body.classList.toggle("stale", now !== "");
		if (now !== this.kind) {
			voice.say(this.#texts[now] ?? "The page is live again.");
			this.kind = now;
		}
	}
}
