// The state of this page's connection to the service.

import { setHidden, setText } from "./dom.js";
import { subscribe } from "./store.js";

const TEXTS = {
  connecting: "",
  live: "",
  polling: "updated every 5 s",
  disconnected: "disconnected, retrying",
  unauthorized: "reload the page to sign in again",
};

export function startConnection() {
  const element = document.getElementById("connection");
  subscribe("connection", (connection) => {
    setText(element, TEXTS[connection]);
    setHidden(element, TEXTS[connection] === "");
    document.documentElement.dataset.connection = connection;
  });
}
