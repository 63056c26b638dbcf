package waybill.orders

import java.io.File
import java.security.MessageDigest

class Labels(private val root: File) {
    fun read(name: String): ByteArray = File(root, name).readBytes()

    fun store(name: String, bytes: ByteArray): String {
        val target = File(root, name)
        target.writeBytes(bytes)
        return MessageDigest.getInstance("MD5").digest(bytes).toHex()
    }

    fun print(printer: String, name: String) {
        Runtime.getRuntime().exec("lp -d " + printer)
        Runtime.getRuntime().exec("logger printed " + name)
    }
}
