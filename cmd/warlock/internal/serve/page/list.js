// The page of all locks.

import { Rows, at, say, put, voice, watch } from "./rows.js";

const mostRows = 200; // a search finds the others

const rows = new Rows(at("locks"));
const query = at("query");
let list = null; // the newest message

query.value = new URLSearchParams(location.search).get("q") ?? "";

query.addEventListener("input", () => {
	const search = query.value === "" ? "" : `?q=${encodeURIComponent(query.value)}`;
	history.replaceState(null, "", location.pathname + search);
	if (list) {
		voice.say(`${locks(show())} found`);
	}
});

at("search").addEventListener("submit", (event) => event.preventDefault());

watch("events", {
	hello() {},
	news(data) {
		if (!list || list.locks.length !== data.locks.length) {
			voice.say(locks(data.locks.length + data.more));
		}
		list = data;
		show();
	},
});

// show shows the locks that the search finds, and returns how many they are.
function show() {
	const words = query.value.toLowerCase().split(/\s+/).filter(Boolean);
	const found = list.locks.filter(({ key, holder }) => {
		const text = `${key} ${holder}`.toLowerCase();
		return words.every((word) => text.includes(word));
	});
	rows.show(found.slice(0, mostRows).map(row));
	const all = list.locks.length + list.more;
	put(at("count"), words.length > 0 ? `${found.length} of ${all}` : `${all}`);
	document.title = `${locks(all)} – warlock`;
	say(at("more"), more(found.length - mostRows, words.length > 0 ? 0 : list.more));
	at("empty").hidden = all > 0 || Boolean(list.error);
	const none = all > 0 && found.length === 0;
	say(at("none"), none ? `No lock matches “${query.value.trim()}”.` : "");
	return found.length;
}

function row(lock, i) {
	return {
		name: lock.ref || `${i} ${lock.key}`,
		link: lock.ref && `lock?key=${lock.ref}`,
		class: lock.waiting > 0 ? "busy" : "",
		cells: [
			lock.key, lock.mode, lock.holder, lock.held, lock.lease,
			lock.waiting > 0 ? `${lock.waiting}` : "", lock.longest,
		],
	};
}

// more says how many locks are not shown: those that a search finds, and those that
// the server did not send.
function more(hidden, unsent) {
	const count = Math.max(hidden, 0) + unsent;
	if (count === 0) {
		return "";
	}
	return `and ${count} more${hidden > 0 ? ": search for one" : ""}`;
}

function locks(count) {
	return count === 1 ? "1 lock" : `${count} locks`;
}
