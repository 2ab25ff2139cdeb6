// The page of one lock.

import { Rows, at, put, say, voice, watch } from "./rows.js";

// The key stays as it is in the address: it may have bytes that are no text.
const key = /[?&]key=([^&]*)/.exec(location.search)?.[1] ?? "";

const holders = new Rows(at("holders"));
const queue = new Rows(at("queue"));
let lock = null; // the newest message
let spoken = ""; // of the holder
let forgery = ""; // the token against forgery
let mayBreak = false;

watch(`events?key=${key}`, {
	hello(data) {
		forgery = data.forgery;
		mayBreak = data.break;
	},
	news(data) {
		lock = data;
		show();
	},
});

function show() {
	put(at("key"), lock.key);
	document.title = `${lock.key} – warlock`;
	if (lock.at === 0) {
		return; // no look has found anything out yet
	}
	const held = lock.holders ?? [];
	const waiting = lock.waiting ?? [];
	const count = waiting.length + lock.moreWaiting;
	put(at("mode"), lock.mode);
	put(at("waiting"), `${count}`);
	put(at("fence"), lock.fence || "not known");
	holders.show(held.map((h) => ({ name: h.ref || h.id, cells: [h.owner, h.id, h.held, h.lease] })));
	queue.show(waiting.map((w, i) => ({ name: w.id, cells: [`${i + 1}`, w.owner, w.mode, w.for] })));
	say(at("more-holders"), lock.moreHolders > 0 ? `and ${lock.moreHolders} more` : "");
	say(at("more-waiting"), lock.moreWaiting > 0 ? `and ${lock.moreWaiting} more` : "");
	at("free").hidden = held.length > 0;
	at("nobody").hidden = count > 0;
	at("break").hidden = !mayBreak || held.every((h) => h.ref === "");
	speak(held, count);
}

// speak tells a screen reader of a new holder. The queue moves too often for that.
function speak(held, count) {
	const who = held.length > 0 ? `Held by ${held[0].owner}` : "Nobody holds this lock";
	if (who !== spoken) {
		spoken = who;
		voice.say(`${who}, ${count} waiting`);
	}
}

at("break").addEventListener("click", () => {
	const seen = lock.holders.filter((h) => h.ref !== "");
	put(at("ask-key"), lock.key);
	at("ask-holders").replaceChildren(...names(seen).map((name) => {
		const item = document.createElement("li");
		item.textContent = name;
		return item;
	}));
	// Not when the dialog closes: that event comes late, and may be of an earlier time.
	at("ask-break").onclick = () => breakLock(seen);
	at("ask").showModal();
});

// breakLock frees the lock from the holders that the dialog named. A holder that
// took the lock meanwhile keeps it.
async function breakLock(seen) {
	const result = at("result");
	put(result, "Breaking…");
	try {
		const answer = await fetch("break", {
			method: "POST",
			headers: {
				"Content-Type": "application/x-www-form-urlencoded",
				"X-Warlock-Forgery": forgery,
			},
			body: [`key=${key}`, ...seen.map((h) => `id=${h.ref}`)].join("&"),
		});
		if (!answer.ok) {
			put(result, `Not broken: ${(await answer.text()).trim()}.`);
			return;
		}
		put(result, became(await answer.json(), seen));
	} catch {
		put(result, "It is not known whether the lock was broken: the connection was lost.");
	}
}

function became({ freed, notHeld, unknown, error }, seen) {
	const named = (refs) => names(seen.filter((h) => refs.includes(h.ref))).join(", ");
	const parts = [];
	if (freed) {
		parts.push(`Freed: it was taken from ${named(freed)}.`);
	}
	if (notHeld) {
		parts.push(`No longer held by ${named(notHeld)}: nothing was taken from it.`);
	}
	if (unknown) {
		parts.push(`Not known whether ${named(unknown)} still has it: ${error}.`);
	}
	return parts.join(" ");
}

// names returns the names of holders, and a count in place of the later ones.
function names(list) {
	const most = 5;
	const first = list.slice(0, most).map((h) => h.owner);
	return list.length > most ? [...first, `${list.length - most} more`] : first;
}
